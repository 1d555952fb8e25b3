"""Where calls to ThirdParties may go on the network: which address of a host Envoy connects to."""
