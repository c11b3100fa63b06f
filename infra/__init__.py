"""Where FedX runs: servers and workers on one machine, images, templates of work pools."""
