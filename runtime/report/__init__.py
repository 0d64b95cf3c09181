"""Pages that need nothing but a browser: the shell, the drawing, the plots, and each page."""
