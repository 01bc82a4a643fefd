"""What people watch while work runs: consoles through which no stranger's control character gets, and progress."""
