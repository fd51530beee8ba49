"""The training methods: what is attacked, and the loss that is minimised. One file each."""
