package nerdctl

import "testing"

// shop is two services, of which one asks the other by its name, with a volume, a limit and a network of their own.
const shop = `
name: TAG
services:
  web:
    image: nginx
    runtime: ENGINE
    ports: ["127.0.0.1:PORT:80"]
    mem_limit: 64m
    cap_drop: [NET_RAW]
    environment: {COLOUR: blue}
  client:
    image: busybox
    runtime: ENGINE
    depends_on: [web]
    volumes: ["kept:/kept"]
    command: ["sh", "-c", "trap 'exit 0' TERM; until wget -qO /kept/answer http://web/small.txt 2>/dev/null; do sleep 0.1; done; echo web-says-$$(cat /kept/answer); while :; do sleep 0.1; done"]
volumes:
  kept: {}
`

// TestCompose is an application of several containers, from up to down.
func TestCompose(t *testing.T) {
	h := newHost(t)
	h.load(t, "nginx")
	h.same(t,
		step{args: "compose -f FILE config", file: shop, loose: true, want: "runtime: "},
		step{args: "compose -f FILE up -d --quiet-pull", loose: true},
		step{args: "compose -f FILE ps --services", loose: true, want: "^client$"},
		step{args: "run --rm --network host --name NAME RUNTIME busybox sh -c 'until wget -qO- http://127.0.0.1:PORT/small.txt 2>/dev/null; do sleep 0.1; done'", want: "^ok$"},
		step{args: "compose -f FILE exec -T client sh -c 'until [ -s /kept/answer ]; do sleep 0.1; done; cat /kept/answer'", want: "^ok$"},
		step{args: "compose -f FILE exec -T web sh -c 'echo $COLOUR'", want: "^blue$"},
		step{args: "compose -f FILE logs client", loose: true, want: "web-says-ok"},
		step{args: "compose -f FILE restart client", loose: true},
		step{args: "compose -f FILE exec -T client cat /kept/answer", want: "^ok$"},
		step{args: "compose -f FILE pause web", loose: true},
		step{args: "compose -f FILE unpause web", loose: true},
		step{args: "compose -f FILE top", loose: true, want: "nginx"},
		step{args: "compose -f FILE down -v", loose: true},
		step{args: "ps -a --filter name=TAG- --format '{{.Names}}'", want: `\Aexit status 0\n\z`},
		step{args: "volume ls --filter name=TAG --format '{{.Name}}'", want: `\Aexit status 0\n\z`},
		step{args: "network ls --filter name=TAG --format '{{.Name}}'", want: `\Aexit status 0\n\z`},
	)
}
