"""Training runs: distill, pretrain and finetune, their trainer, settings and folders."""
