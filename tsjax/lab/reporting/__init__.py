"""What the lab's reports share: its optional packages, figures, tables."""
