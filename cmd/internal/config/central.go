package config

import (
	"net"
	"path"
)

// Who decides about outbound requests (Egress.PDP).
const (
	PDPLocal  = "local"  // this node's daemon, by Egress.Rules
	PDPRemote = "remote" // the daemon at Egress.Remote
)

// Identity is what one end of mutual TLS has: PEM files, which are read again when they change.
type Identity struct {
	CA   string // certificates by which the other end's is checked
	Cert string // this end's, with what leads from it to a CA the other end knows
	Key  string
}

// Central is a daemon elsewhere that decides for this node.
type Central struct {
	Identity
	Address string // HOST:PORT
	Name    string // which its certificate must have
}

// CentralServer is for whom this daemon decides beside its own node.
type CentralServer struct {
	Identity
	Listen string   // HOST:PORT, HOST may be empty for all addresses; "": for nobody
	Names  []string // patterns of the names in certificates of nodes that may ask; * stands for any text
	Rate   int      // questions a second of one certificate
}

const defaultCentralRate = 20_000

// Decides tells whether there is an egress policy: requests are decided, here or elsewhere.
func (e *Egress) Decides() bool { return e.Rules != "" || e.PDP == PDPRemote }

// readCentral reads who decides, and for whom.
func (c *Config) readCentral(t *table) {
	e := &c.Egress
	t.word("pdp", &e.PDP, PDPLocal, PDPRemote)
	remote := t.sub("remote")
	if remote.address("address", &e.Remote.Address, "pdp.example.com:7443", false); e.Remote.Address != "" {
		e.Remote.Name, _, _ = net.SplitHostPort(e.Remote.Address)
	}
	remote.text("name", &e.Remote.Name)
	remote.identity(&e.Remote.Identity, len(remote.values) > 0)
	remote.rest()
	switch {
	case e.PDP == PDPRemote && e.Remote.Address == "":
		t.problem(t.at("pdp"), `write [egress.remote] with address = "HOST:PORT", ca, cert and key`, "says that another daemon decides, and not which")
	case e.PDP == PDPRemote && e.Rules != "":
		t.problem(t.at("rules"), `remove it, or write pdp = "local"`, "are not asked where pdp is remote: they belong to the daemon that decides")
	}

	serve := t.sub("serve")
	e.Serve = CentralServer{}
	serve.address("listen", &e.Serve.Listen, ":7443", true)
	serve.identity(&e.Serve.Identity, len(serve.values) > 0)
	serve.strings("names", func(at []string, s string) {
		if _, err := path.Match(s, ""); err != nil || s == "" {
			serve.problem(at, `write a name or a pattern such as "*.nodes.example.com"`, "%.60q is no pattern of names", s)
		}
		e.Serve.Names = append(e.Serve.Names, s)
	})
	if len(serve.values) > 0 {
		e.Serve.Rate = defaultCentralRate
	}
	serve.integer("rate", &e.Serve.Rate, 1, 10_000_000)
	serve.rest()
	switch {
	case len(serve.values) == 0:
	case e.Serve.Listen == "":
		serve.problem(serve.path, `write listen = ":7443"`, "does not say where")
	case len(e.Serve.Names) == 0:
		serve.problem(serve.path, `write names = ["*.nodes.example.com"], the names in the nodes' certificates`, "does not say for whom")
	case e.PDP == PDPRemote || e.Rules == "":
		serve.problem(serve.path, `write rules = "/etc/forefend/rules" in [egress]`, "needs rules to decide by")
	}
}

// address reads HOST:PORT; without a host only where that means all addresses.
func (t *table) address(key string, into *string, example string, anyHost bool) {
	var s string
	if !t.text(key, &s) {
		return
	}
	if host, port, err := net.SplitHostPort(s); err != nil || host == "" && !anyHost || !isPort(port) {
		t.problem(t.at(key), `write HOST:PORT such as "`+example+`"`, "%.60q is no address with a port", s)
		return
	}
	*into = s
}

// identity reads ca, cert and key, of which none can be missing where they are needed.
func (t *table) identity(i *Identity, needed bool) {
	for _, f := range []struct {
		key  string
		into *string
	}{{"ca", &i.CA}, {"cert", &i.Cert}, {"key", &i.Key}} {
		if t.file(f.key, f.into, "/etc/forefend/pdp/"+f.key+".pem"); *f.into == "" && needed {
			t.problem(t.at(f.key), "name a PEM file: ca (whom to believe), cert and key (who this is)", "is missing")
		}
	}
}
