"""What a SuperNode runs: the ClientApp that is installed with edgessl on the device."""

from federated.deployment.apps import client_app

app = client_app()
