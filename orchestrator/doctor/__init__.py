"""What `flatsweep doctor` looks at: one module per kind of check, each run in a process of its own that has to end."""
