package harness

// InNetwork runs f, on a thread of its own, in the network containerd and its host-network pods are in: a private one
// under WithCRI, else the machine's. What f opens or starts stays in it. f must not end the goroutine (no t.Fatal).
func (e *Env) InNetwork(f func() error) error {
	if e.network == nil {
		return f()
	}
	return e.network.Do(f)
}
