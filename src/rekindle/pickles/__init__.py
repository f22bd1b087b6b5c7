"""Reading pickles without running them: record what a pickle says, then rebuild known values."""
