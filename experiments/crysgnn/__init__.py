"""The study of CrysGNN: its plan, its crystals, its runs, what they say."""
