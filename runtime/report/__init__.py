"""The report's page, charts and tables."""
