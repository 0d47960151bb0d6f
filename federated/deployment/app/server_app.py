"""What a SuperLink runs: the ServerApp that is installed with edgessl on the server."""

from federated.deployment.apps import server_app

app = server_app()
