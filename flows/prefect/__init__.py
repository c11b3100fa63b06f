"""What is used of Prefect: flows of clients, tasks of the server, and asking its server."""
