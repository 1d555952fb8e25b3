"""The echo app: what reached it, byte for byte, over HTTP/1.1, HTTP/2, gRPC and WebSocket."""
