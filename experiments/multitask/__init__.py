"""The study of multi-task learning: its plan, its runs, what they say."""
