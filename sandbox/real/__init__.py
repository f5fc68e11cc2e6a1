"""
Real components: kube-apiserver with etcd, and Prometheus, as processes on loopback.

The rest of the sandbox imitates them so that a machine with nothing but Python can run everything; this package
starts the originals, so that what the imitations promise is checked against the real thing. It stands on its own:
nothing here knows the simulated world, and whoever wants a control plane gets a URL and a kubeconfig.
"""
