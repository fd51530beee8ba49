"""The regularisers: each implements the one interface in `workers.regularizers.base` that it needs."""
