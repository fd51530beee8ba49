"""Components for flatsweep."""
