"""Parts of derivative_study.py."""
