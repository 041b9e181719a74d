"""What all packages share: files, bounds of settings, words, the statuses of runs. Standard library alone."""
