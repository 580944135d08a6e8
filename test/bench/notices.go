package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"forefend.dev/forefend/runtime/orchestrator/api"
)

// noticed are the servers of which notifications are counted: those of the other measurements, and two of the image "servers".
func noticed() []server {
	return append(servers[:len(servers):len(servers)], server{
		name: "postgres", image: "servers",
		// Paths in full, as in test/e2e: a program whose name is computed is one that static analysis cannot follow.
		args: []string{"bash", "-c", "set -e; mkdir -p /tmp/pg; chown postgres /tmp/pg; cd /tmp; " +
			"setpriv --reuid postgres --regid postgres --clear-groups /usr/lib/postgresql/15/bin/initdb -A trust -D /tmp/pg/d >/dev/null; " +
			"exec setpriv --reuid postgres --regid postgres --clear-groups /usr/lib/postgresql/15/bin/postgres -D /tmp/pg/d -k /tmp -c listen_addresses=127.0.0.1"},
		ready: postgres("pgbench", "-i", "-q"), // and makes its tables
		load: func(ctx context.Context, pid string) (float64, error) {
			command := postgres("pgbench", "-n", "-S", "-c", "8", "-t", "2000")
			text, err := inNetwork(ctx, pid, command[0], command[1:]...)
			if err != nil {
				return 0, err
			}
			return strconv.ParseFloat(match(`transactions actually processed: (\d+)`, text), 64)
		},
	}, server{
		name: "python", image: "servers",
		args: []string{"python3", "-c", `import socket, threading
s = socket.create_server(("127.0.0.1", 8000), backlog=64)
def serve(c):
    while True:
        r = c.recv(4096)
        if not r:
            return c.close()
        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
`},
		ready: []string{"wrk", "-t1", "-c1", "-d1s", "http://127.0.0.1:8000/"},
		load: func(ctx context.Context, pid string) (float64, error) {
			text, err := inNetwork(ctx, pid, "wrk", "-t1", "-c16", "-d2s", "http://127.0.0.1:8000/")
			if err != nil {
				return 0, err
			}
			return strconv.ParseFloat(match(`(\d+) requests in`, text), 64)
		},
	})
}

// postgres is a command of the node's that asks the server on a network's loopback, from where Debian keeps it.
func postgres(name string, args ...string) []string {
	return append(append([]string{"/usr/lib/postgresql/15/bin/" + name}, args...), "-h", "127.0.0.1", "-U", "postgres", "postgres")
}

// measureNotices counts what the kernel asks the shim of servers under load, and what answering costs: of each run with load, less what a run
// without had asked to start and to end.
func measureNotices(ctx context.Context, b *bench) (figures []figure, err error) {
	n, err := openNode(ctx, nil, "redis", "nginx", "servers")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	client, err := api.Dial(ctx, filepath.Join(n.Dir, "run", "forefend.sock"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	pairs := min(mostPairs, (b.rounds+burstsEach-1)/burstsEach)
	for _, s := range noticed() {
		rates, cpu, asked, err := n.notices(ctx, client, s, pairs)
		if err != nil {
			return figures, fmt.Errorf("%s: %w", s.called(), err)
		}
		figures = append(figures,
			alone(s.called()+" under load, notifications per second (of a whole run, of one without load)",
				fmt.Sprintf("%.2f (%.0f, %.0f)", median(rates), median(asked[1]), median(asked[0])), rates),
			alone(s.called()+" under load, supervisor's CPU (% of a core)", fmt.Sprintf("%.2f", median(cpu)), cpu))
	}
	return figures, nil
}

// notices returns for each pair of runs the notifications per second of load, the share of a core that the shim took meanwhile, in per cent, and
// how many notifications there were without load and with.
func (n *node) notices(ctx context.Context, client *api.Client, s server, pairs int) (rates, cpu []float64, asked [2][]float64, err error) {
	if err := n.warm(ctx, s); err != nil {
		return nil, nil, asked, err
	}
	for pair := range pairs {
		var loaded time.Duration
		for i := range asked {
			c, err := n.serve(ctx, forefend, s)
			if err != nil {
				return nil, nil, asked, err
			}
			if i == 1 {
				shim := c.groups[1]
				began := time.Now()
				before, err := n.cpu.cpu(shim)
				for range burstsEach {
					if err == nil {
						_, err = s.load(ctx, c.pid)
					}
				}
				loaded = time.Since(began)
				after, last := n.cpu.cpu(shim)
				if err = errors.Join(err, last); err != nil {
					return nil, nil, asked, err
				}
				cpu = append(cpu, 100*(after-before)/loaded.Seconds())
			}
			if err := n.remove(ctx, c.id); err != nil {
				return nil, nil, asked, err
			}
			sum, err := n.asked(ctx, client, c.id)
			if err != nil {
				return nil, nil, asked, err
			}
			asked[i] = append(asked[i], sum)
		}
		rates = append(rates, (asked[1][pair]-asked[0][pair])/loaded.Seconds())
	}
	return rates, cpu, asked, nil
}

// asked counts the watched calls of a run that has ended.
func (n *node) asked(ctx context.Context, client *api.Client, id string) (sum float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		h, err := client.History(ctx, api.HistoryRequest{Limit: 1000})
		if err != nil {
			return 0, err
		}
		for _, w := range h.Workloads {
			of, err := client.History(ctx, api.HistoryRequest{Workload: w.Key.Value, Limit: 1000})
			if err != nil {
				return 0, err
			}
			for _, r := range of.Runs {
				if r.ID.Container != id || !r.Final {
					continue
				}
				for _, calls := range []map[string]uint64{r.Syscalls, r.Denied} {
					for _, times := range calls {
						sum += float64(times)
					}
				}
				return sum, nil
			}
		}
		if wait(ctx, 50*time.Millisecond) != nil {
			return 0, fmt.Errorf("the history has no end of %s: %w", id, ctx.Err())
		}
	}
}
