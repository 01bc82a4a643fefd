"""Where the stages of a plan are run besides this process; one launcher a file."""
