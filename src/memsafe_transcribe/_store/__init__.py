"""What outlives the process: jobs, batches and failed URLs, in one SQLite file."""
