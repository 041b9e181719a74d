"""Shared by all packages: files, bounds of settings, words, the statuses of runs. Standard library only."""
