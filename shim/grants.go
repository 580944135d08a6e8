package shim

import (
	"sync"

	"forefend.dev/forefend/netns/flow"
)

// mostGrants is how many ways out are kept of each generation: no fewer than an agent keeps decisions.
const mostGrants = 4096

// grants are the ways out that decisions let a container's requests take. An agent is given tunnels by these alone, so that one that was taken
// over cannot ask for a way that nothing was let out by. New ones are young; when there are mostGrants of them they become old, and what was old, and
// not asked for since, is forgotten.
type grants struct {
	mu         sync.Mutex
	young, old map[grant]struct{} // guarded by mu
}

// grant is what a tunnel is chosen by.
type grant struct {
	container  string // "": which of the pod is not known
	encryption flow.Encryption
	dedicated  bool
	endpoint   string
	qos        string
	user       string // of a dedicated one
}

func grantOf(container, user string, p flow.Profile) grant {
	g := grant{container: container, encryption: p.Encryption, dedicated: p.Dedicated, endpoint: p.Endpoint, qos: p.QoS}
	if p.Dedicated {
		g.user = user
	}
	return g
}

// give notes a decision that lets something out.
func (g *grants) give(is grant) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.giveLocked(is)
}

func (g *grants) giveLocked(is grant) {
	if _, known := g.young[is]; known {
		return
	}
	if g.young == nil || len(g.young) == mostGrants {
		g.young, g.old = make(map[grant]struct{}), g.young
	}
	g.young[is] = struct{}{}
}

// has tells whether a decision lets something out so.
func (g *grants) has(is grant) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, young := g.young[is]; young {
		return true
	}
	_, old := g.old[is]
	if old {
		g.giveLocked(is)
	}
	return old
}
