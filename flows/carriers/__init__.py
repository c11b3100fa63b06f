"""Ways to carry a round to clients: this process, task runners, work pools, sites."""
