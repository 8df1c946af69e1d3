"""Large runs, and estimates for TPUs."""
