package nerdctl

import "testing"

// TestNetworks are networks of nerdctl's own making, and those that containers share.
func TestNetworks(t *testing.T) {
	h := newHost(t)
	h.load(t, "nginx")
	for name, steps := range map[string][]step{
		"published port": {
			{args: "run -d --name NAME -p 127.0.0.1:PORT:80 RUNTIME nginx"},
			{args: "port NAME", want: "^80/tcp -> 127.0.0.1:PORT$"},
			{args: "run --rm --network host --name NAME-2 RUNTIME busybox sh -c 'until wget -qO- http://127.0.0.1:PORT/small.txt 2>/dev/null; do sleep 0.1; done'", want: "^ok$"},
			{args: "rm -f NAME"},
			{args: "run --rm --network host --name NAME-2 RUNTIME busybox nc -w 5 127.0.0.1 PORT", code: 1},
		},
		"user's network": {
			{args: "network create TAG-net", want: "^ID$"},
			{args: "run -d --name NAME --network TAG-net RUNTIME nginx"},
			{args: "run --rm --network TAG-net --name NAME-2 RUNTIME busybox sh -c 'until wget -qO- http://NAME/small.txt 2>/dev/null; do sleep 0.1; done'", want: "^ok$"},
			{args: "network ls --format '{{.Name}}' --filter name=TAG-net", loose: true, want: "TAG-net"},
			{args: "network rm TAG-net", code: 1, want: "in use"},
			{args: "rm -f NAME"},
			{args: "network rm TAG-net", want: "TAG-net"},
		},
		"container's network": {
			{args: "run -d --name NAME RUNTIME nginx"},
			{args: "run --rm --network container:NAME --name NAME-2 RUNTIME busybox sh -c 'until wget -qO- http://127.0.0.1/small.txt; do sleep 0.1; done'", loose: true, want: "^ok$"},
		},
		"container's processes": {
			{args: "run -d --name NAME RUNTIME busybox sleep 1000"},
			{args: "run --rm --pid container:NAME --name NAME-2 RUNTIME busybox sh -c 'ps -o args >list; sort list'", want: "^sleep 1000$"},
		},
		"container's ipc": {
			{args: "run -d --name NAME --ipc shareable RUNTIME busybox sh -c 'echo shared >/dev/shm/x; sleep 1000'"},
			{args: "run --rm --ipc container:NAME --name NAME-2 RUNTIME busybox sh -c 'until [ -s /dev/shm/x ]; do sleep 0.1; done; cat /dev/shm/x'", code: anyCode},
		},
		"fixed address": {
			{args: "run --rm --name NAME --mac-address 02:00:00:00:00:07 RUNTIME busybox cat /sys/class/net/eth0/address", want: "^MAC$"},
		},
	} {
		t.Run(name, func(t *testing.T) { h.same(t, steps...) })
	}
}

// TestMounts are volumes, bind mounts and what may be written to them.
func TestMounts(t *testing.T) {
	h := newHost(t)
	h.write(t, "file", "hello\n")
	shared := h.sharedMount(t)
	for name, steps := range map[string][]step{
		"volume": {
			{args: "volume create TAG-v", want: "^TAG-v$"},
			{args: "run --rm --name NAME -v TAG-v:/v RUNTIME busybox sh -c 'echo kept >/v/x'"},
			{args: "run --rm --name NAME -v TAG-v:/v:ro RUNTIME busybox sh -c 'cat /v/x; echo 2 >/v/x'", code: 1, want: "(?s)^kept$.*Read-only"},
			{args: "volume inspect --format '{{.Name}}' TAG-v", want: "TAG-v"},
			{args: "volume rm TAG-v", want: "TAG-v"},
		},
		"volume with the image's files": {
			{args: "run --rm --name NAME -v TAG-w:/etc RUNTIME busybox ls /etc", want: "^passwd$"},
			{args: "volume rm TAG-w"},
		},
		"anonymous volume": {{args: "run --rm --name NAME -v /anon RUNTIME busybox sh -c 'touch /anon/x && grep -c \" /anon \" /proc/mounts'", want: "^1$"}},
		"bind": {
			{args: "run --rm --name NAME -v DIR/file:/f RUNTIME busybox cat /f", want: "^hello$"},
			{args: "run --rm --name NAME -v DIR/TAG-dir:/d RUNTIME busybox sh -c 'echo made >/d/x'"},
			{args: "run --rm --name NAME --mount type=bind,src=DIR/TAG-dir,dst=/d,readonly RUNTIME busybox sh -c 'cat /d/x; rm /d/x'", code: 1, want: "^made$"},
		},
		"tmpfs mount": {{args: "run --rm --name NAME --mount type=tmpfs,dst=/t,tmpfs-size=1m RUNTIME busybox sh -c 'grep \" /t \" /proc/mounts'", want: "size=1024k"}},
		"propagation": {
			{args: "run --rm --name NAME -v " + shared + ":/s:rshared RUNTIME busybox sh -c 'grep \" /s \" /proc/self/mountinfo | grep -o shared:'", want: "^shared:$"},
			{args: "run --rm --name NAME -v " + shared + ":/s:rslave RUNTIME busybox sh -c 'grep \" /s \" /proc/self/mountinfo | grep -o master:'", want: "^master:$"},
			{args: "run --rm --name NAME -v " + shared + ":/s RUNTIME busybox sh -c 'grep \" /s \" /proc/self/mountinfo | grep -c shared:'", code: 1, want: "^0$"},
			{args: "run -d --name NAME --cap-add SYS_ADMIN -v " + shared + ":/s:rshared RUNTIME busybox sh -c 'mkdir -p /s/TAG && mount -t tmpfs none /s/TAG && touch /s/TAG/in; sleep 1000'"},
			{args: "run --rm --name NAME-2 -v " + shared + ":/s:rslave RUNTIME busybox sh -c 'until [ -e /s/TAG/in ]; do sleep 0.1; done; ls /s/TAG'", want: "^in$"},
			{args: "exec --privileged NAME umount /s/TAG", code: anyCode},
		},
		"nothing to bind": {{args: "run --rm --name NAME --mount type=bind,src=DIR/nosuch,dst=/d RUNTIME busybox true", code: 1}},
		"volumes from":    {{args: "run -d --name NAME -v TAG-u:/v RUNTIME busybox sh -c 'echo kept >/v/x; sleep 1000'"}, {args: "run --rm --name NAME-2 --volumes-from NAME RUNTIME busybox sh -c 'until [ -s /v/x ]; do sleep 0.1; done; cat /v/x'", want: "^kept$"}},
	} {
		t.Run(name, func(t *testing.T) { h.same(t, steps...) })
	}
}
