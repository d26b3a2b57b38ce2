"""What differs between two versions of jobs: `specs` in what is said of them, `trees` in their source."""
