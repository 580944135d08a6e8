package sinks

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/scan/setup"
	"forefend.dev/forefend/runtime/rootfs"
)

// The kinds of evidence for a miner. Each may have honest reasons; that several kinds come together does not.
var (
	protocols = []string{"stratum+tcp://", "stratum+ssl://", "stratum+tls://", "stratum2+tcp://", "stratum://", "mining.subscribe",
		"mining.authorize", "mining.submit", "eth_submitLogin", "eth_submitWork", "stratum+tcp", "daemon+http://"}
	pools = []string{"minexmr.com", "supportxmr.com", "nanopool.org", "hashvault.pro", "moneroocean.stream", "2miners.com", "f2pool.com",
		"ethermine.org", "nicehash.com", "unmineable.com", "c3pool.", "herominers.com", "xmrpool.eu", "dwarfpool.com", "monerohash.com",
		"minergate.com", "crypto-pool.fr", "viabtc.", "antpool.com", "woolypooly.com", "kryptex.network", "zpool.ca", "prohashing.com",
		"donate.v2.xmrig.com", "donate.ssl.xmrig.com", "xmr.pool.gntl.co.uk", "flexpool.io", "hiveon.", "miningocean.org", "skypool.org"}
	algorithms = []string{"randomx", "cryptonight", "rx/0", "rx/wow", "cn/r", "cn/half", "cn-lite", "cn-heavy", "kawpow", "ethash", "etchash",
		"argon2/chukwa", "ghostrider", "verushash", "equihash", "progpow", "yespower", "lyra2re", "scrypt:", "x11gost", "autolykos", "octopus/"}
	settings = []string{"donate-level", "donate-over-proxy", "max-threads-hint", "randomx-no-numa", "rig-id", "huge-pages-jit",
		"nicehash", "cpu-max-threads-hint", "algo-perf", "hashrate", "accepted: %", "wallet address", "khash/s", "hashmeter", "scantime", "X-Long-Polling", "getwork", "Stratum difficulty"}
	names = regexp.MustCompile(`(?i)^(xmrig.*|xmr-stak.*|minerd|cpuminer.*|ccminer|ethminer|t-rex|lolminer|nbminer|phoenixminer|cgminer|bfgminer|kdevtmpfsi|nanominer|srbminer.*|gminer|teamredminer|rigel|claymore.*)$`)
	// monero is an address of Monero: 95 or 106 characters of base58.
	monero = regexp.MustCompile(`\b[48][0-9AB][1-9A-HJ-NP-Za-km-z]{93}(?:[1-9A-HJ-NP-Za-km-z]{11})?\b`)
)

// about are commands that mention miners to find or stop them.
var about = []string{"grep", "egrep", "fgrep", "pgrep", "pkill", "kill", "killall", "iptables", "nft", "echo", "printf", "ps", "rm", "sed", "awk",
	"find", "test", "[", "[[", "case", "host", "dig", "nslookup", "ufw", "sqlite3", "psql", "logger"}

// minerCommand scores one command line.
func (f *finder) minerCommand(words []string, where string) {
	if slices.Contains(about, path.Base(words[0])) {
		return
	}
	var why []string
	line := strings.ToLower(strings.Join(words, " "))
	if names.MatchString(path.Base(words[0])) {
		why = append(why, "the name "+path.Base(words[0]))
	}
	if has := first(line, protocols[:5]); has != "" {
		why = append(why, "a mining protocol")
	}
	if has := first(line, pools); has != "" {
		why = append(why, "the pool "+has)
	}
	if monero.MatchString(strings.Join(words, " ")) {
		why = append(why, "a wallet")
	}
	if has := first(line, algorithms); has != "" && (strings.Contains(line, " -a ") || strings.Contains(line, "--algo") || strings.Contains(line, "--coin")) {
		why = append(why, "an algorithm")
	}
	if strings.Contains(line, "--donate-level") || strings.Contains(line, "--cpu-max-threads-hint") || strings.Contains(line, "--rig-id") || strings.Contains(line, "--nicehash") {
		why = append(why, "a miner's flags")
	}
	if len(why) >= 2 {
		f.add("miner", "cpu", 0.95, where, "command line has "+strings.Join(why, ", "))
	}
}

// settingsInText are settings of miners that no other program has; those of a binary's help are looser.
var settingsInText = []string{"donate-level", "donate-over-proxy", "max-threads-hint", "randomx-no-numa", "rig-id", "huge-pages-jit"}

// hunting begins lines of scripts that mention miners to find or stop them.
var hunting = regexp.MustCompile(`^\s*(?:sudo\s+)?(?:[efp]?grep|p?kill|killall|ip6?tables|nft|ufw|find|rm|sed|awk|host|dig)\b`)

// minerText looks for what a miner needs anywhere in a script, of whatever language: what is written to a file, or handed on by way of
// variables, is on no command line. Three kinds of evidence are wanted, where a command line has to have two.
func (f *finder) minerText(text, where string) {
	if slices.ContainsFunc(f.found, func(s evidence.Sink) bool { return s.Kind == "miner" && s.Where == where }) {
		return
	}
	var b strings.Builder
	for line := range strings.Lines(uncommented(text)) {
		if !hunting.MatchString(line) {
			b.WriteString(line)
		}
	}
	text = b.String()
	var known [3]map[string]bool
	for i, words := range [][]string{protocols, pools, algorithms} {
		known[i] = make(map[string]bool)
		note([]byte(text), words, known[i])
	}
	var why []string
	for _, kind := range []struct {
		name  string
		found bool
	}{
		{"a mining protocol", len(known[0]) > 0}, {"a pool", len(known[1]) > 0}, {"an algorithm", len(known[2]) > 0},
		{"a miner's settings", first(text, settingsInText) != ""}, {"a wallet", monero.MatchString(text)},
	} {
		if kind.found {
			why = append(why, kind.name)
		}
	}
	if len(why) >= 3 && len(known[1]) <= manyPools {
		f.add("miner", "cpu", 0.8, where, "the script has "+strings.Join(why, ", "))
	}
}

func first(in string, words []string) string {
	for _, w := range words {
		if strings.Contains(in, w) {
			return w
		}
	}
	return ""
}

// maxBinary bounds what is searched of one program.
const maxBinary = 160 << 20

// binary searches a program's constants.
func (f *finder) binary(tree rootfs.Tree, name string) {
	file, _, err := tree.OpenFile(name)
	if err != nil {
		return
	}
	defer file.Close()
	if f.window == nil {
		f.window = make([]byte, window)
	}
	var m mining
	for _, part := range constants(file) {
		m.search(part, f.window)
	}
	if ok, why := m.verdict(); ok {
		f.add("miner", "cpu", 0.9, name, "has "+why)
	}
}

// readerAt is what a file gives.
type readerAt interface {
	io.ReaderAt
	io.Reader
}

// constants are the parts of a program that hold its strings: the data sections, or all of it where there are no sections,
// which is itself a habit of what hides.
func constants(r readerAt) []io.Reader {
	e, err := elf.NewFile(r)
	var parts []io.Reader
	if err == nil {
		for _, s := range e.Sections {
			if s.Type == elf.SHT_PROGBITS && s.Flags&elf.SHF_ALLOC != 0 && s.Flags&elf.SHF_EXECINSTR == 0 && s.Size > 64 &&
				!strings.HasPrefix(s.Name, ".eh_frame") && s.Name != ".gopclntab" && s.Name != ".gcc_except_table" {
				parts = append(parts, io.NewSectionReader(r, int64(s.Offset), int64(min(s.FileSize, maxBinary))))
			}
		}
	}
	if len(parts) == 0 {
		return []io.Reader{io.NewSectionReader(r, 0, maxBinary)}
	}
	return parts
}

// mining counts the kinds of evidence in a program.
type mining struct{ protocol, pool, algorithm, setting map[string]bool }

// anchors are in every miner; without one of them the rest is not searched for.
var anchors = [][]byte{[]byte("stratum"), []byte("mining."), []byte("donate")}

const window = 256 << 10

// search looks through a part by way of buf, a window that moves over it.
func (m *mining) search(r io.Reader, buf []byte) {
	if m.protocol == nil {
		*m = mining{map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}}
	}
	kept := 0
	total := 0
	for total < maxBinary {
		n, err := io.ReadFull(r, buf[kept:])
		total += n
		m.look(buf[:kept+n])
		if err != nil {
			return
		}
		kept = copy(buf, buf[len(buf)-64:]) // a word may lie across
	}
}

func (m *mining) look(b []byte) {
	if len(m.protocol) == 0 && !slices.ContainsFunc(anchors, func(a []byte) bool { return bytes.Contains(b, a) }) {
		return
	}
	note(b, protocols, m.protocol)
	note(b, pools, m.pool)
	note(b, algorithms, m.algorithm)
	note(b, settings, m.setting)
}

func note(b []byte, words []string, found map[string]bool) {
	for _, w := range words {
		if !found[w] && bytes.Contains(b, []byte(w)) {
			found[w] = true
		}
	}
}

// manyPools is more than any miner knows: such a program looks for miners, as this one does.
const manyPools = 10

// verdict: the protocol, and beside it either two algorithms and settings or a pool, as xmrig and its kin have, or all
// that a client of the protocol needs and settings, as cpuminer and its kin have, which know one algorithm.
func (m *mining) verdict() (bool, string) {
	many := len(m.algorithm) >= 2 && (len(m.setting) >= 2 || len(m.pool) >= 1)
	one := len(m.protocol) >= 3 && len(m.setting) >= 3
	if len(m.pool) > manyPools || len(m.protocol) == 0 || !many && !one {
		return false, ""
	}
	return true, fmt.Sprintf("%d words of mining protocols (%s), %d algorithms, %d pools, %d settings of miners (%s)",
		len(m.protocol), least(m.protocol), len(m.algorithm), len(m.pool), len(m.setting), least(m.setting))
}

// least is the first in order.
func least(found map[string]bool) string {
	best := ""
	for w := range found {
		if best == "" || w < best {
			best = w
		}
	}
	return best
}

// minerConfig looks for the configuration of xmrig and its kin where such programs look for it.
func (f *finder) minerConfig(tree rootfs.Tree, p setup.Program, cwd string, programs []evidence.Program) {
	files := []string{path.Join("/", cwd, "config.json")}
	if v, ok := p.Flag("-c", "--config"); ok && strings.HasSuffix(v, ".json") {
		files = append(files, path.Join("/", cwd, v), v)
	}
	for _, prog := range programs {
		if prog.Kind == "elf" || prog.Kind == "go" {
			files = append(files, path.Join(path.Dir(prog.Path), "config.json"))
		}
	}
	slices.Sort(files)
	for _, name := range bounded(slices.Compact(files)) {
		text := setup.Text(tree, name)
		keys := 0
		for _, k := range []string{`"pools"`, `"url"`, `"donate-level"`, `"randomx"`, `"rig-id"`, `"algo"`, `"coin"`, `"nicehash"`, `"max-threads-hint"`} {
			if strings.Contains(text, k) {
				keys++
			}
		}
		if keys >= 4 && strings.Contains(text, `"pools"`) {
			f.add("miner", "cpu", 0.9, name, fmt.Sprintf("configuration of a miner: %d of its keys", keys))
		}
	}
}

func bounded(files []string) []string { return files[:min(len(files), 20)] }
