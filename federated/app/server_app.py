"""What a SuperLink runs: the ServerApp that is installed with edgessl on the server."""

from federated.deployed import server_app

app = server_app()
