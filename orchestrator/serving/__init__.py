"""MLflow's server: started, looked at from outside, and its database."""
