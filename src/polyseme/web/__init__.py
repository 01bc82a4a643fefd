"""Pages and reports made from what studies wrote."""
