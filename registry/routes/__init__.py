"""HTTP: thin routes over the service. Status codes are known here and nowhere below."""
