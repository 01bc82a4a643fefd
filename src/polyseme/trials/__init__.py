"""The house judged by planted truth."""
