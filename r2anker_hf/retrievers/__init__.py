"""First stages: each turns queries into a Run over one corpus. Import the module of the retriever that you want."""
