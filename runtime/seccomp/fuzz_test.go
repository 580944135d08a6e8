package seccomp

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/test/processor"
)

// FuzzCompile compiles any OCI profile with verdicts and live changes drawn from a number. It is refused by one of the
// errors that Compile promises, or never wider than what was requested; the table survives its encoding; runc's own calls are
// not watched.
func FuzzCompile(f *testing.F) {
	standard, err := json.Marshal(DefaultProfile(nil))
	must(f, err)
	f.Add(standard, uint64(1))
	r := rand.New(rand.NewPCG(1, 2))
	for seed := range uint64(6) {
		raw, err := json.Marshal(randomProfile(r, []string{"clone", "unshare", "execve", "socket", "read", "no_such_call"}))
		must(f, err)
		f.Add(raw, seed)
	}
	for _, raw := range []string{
		`{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86","SCMP_ARCH_NONE",""],"flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV","x"]}`,
		`{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":4294967296,"syscalls":[{"names":["mount"],"action":"SCMP_ACT_ALLOW","args":[{"index":6,"value":1,"op":"SCMP_CMP_EQ"}]}]}`,
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["clone","clone3"],"action":"SCMP_ACT_ERRNO","errnoRet":38,"args":[{"index":0,"value":18446744073709551615,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]}]}`,
		`{"defaultAction":"SCMP_ACT_KILL","syscalls":[{"names":[],"action":"SCMP_ACT_ALLOW"},{"names":["read","read","READ",""],"action":"SCMP_ACT_TRACE"}]}`,
		`{"defaultAction":"SCMP_ACT_NOTIFY","listenerPath":"/x"}`,
	} {
		f.Add([]byte(raw), uint64(7))
	}
	f.Fuzz(func(t *testing.T, raw []byte, seed uint64) {
		var requested specs.LinuxSeccomp
		if len(raw) > 64<<10 || json.Unmarshal(raw, &requested) != nil {
			return
		}
		r := rand.New(rand.NewPCG(seed, 0))
		req := Request{Requested: &requested, Verdicts: map[string]Verdict{}, Fallback: Deny + Verdict(r.IntN(3)), ListenerPath: "/x", ForeignArch: r.IntN(2) == 0}
		names := append(mentioned(&requested), "clone", "mount", "unshare")
		for _, name := range names {
			if r.IntN(2) == 0 && name != "execve" && !indispensable(name) {
				req.Verdicts[name] = Verdict(r.IntN(4))
			}
		}
		began := processor.Used(t)
		profile, table, err := Compile(req)
		if took := processor.Used(t) - began; took > 5*time.Second {
			t.Errorf("%d bytes took %s", len(raw), took)
		}
		if err != nil {
			known := errors.Is(err, ErrOwnListener) || errors.Is(err, ErrIndispensable) || errors.Is(err, ErrUnsupportedProfile)
			if !known && !malformed(&requested) {
				t.Errorf("refused with %v", err)
			}
			return
		}
		for _, s := range profile.Syscalls {
			if s.Action == specs.ActNotify && slices.ContainsFunc(s.Names, indispensable) {
				t.Errorf("runc would hang: %v is watched", s.Names)
			}
		}
		body, err := table.MarshalBinary()
		var back Table
		if err != nil || back.UnmarshalBinary(body) != nil {
			t.Fatalf("the table does not survive its encoding: %v", err)
		}
		if malformed(&requested) {
			return // in a rule that says nothing; the model cannot weigh it
		}
		checkNarrower(t, r, req, profile, &back, nil)
		for _, name := range names {
			_ = back.SetVerdict(name, Verdict(r.IntN(4)), NoException)
		}
		checkNarrower(t, r, req, profile, &back, nil)
	})
}

// malformed reports whether runc could make nothing of a profile either.
func malformed(p *specs.LinuxSeccomp) bool {
	actions := []specs.LinuxSeccompAction{specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap, specs.ActErrno, specs.ActTrace, specs.ActAllow, specs.ActLog, specs.ActNotify}
	operators := []specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual}
	bad := !slices.Contains(actions, p.DefaultAction)
	for _, s := range p.Syscalls {
		bad = bad || !slices.Contains(actions, s.Action)
		for _, a := range s.Args {
			bad = bad || a.Index >= maxArgs || !slices.Contains(operators, a.Op)
		}
	}
	return bad
}

// FuzzSockaddr reads socket addresses as a container passes them.
func FuzzSockaddr(f *testing.F) {
	address := func(family uint16, rest ...byte) []byte {
		return append(binary.NativeEndian.AppendUint16(nil, family), rest...)
	}
	f.Add(address(unix.AF_INET, 1, 187, 192, 0, 2, 1, 0, 0))
	f.Add(address(unix.AF_INET6, append([]byte{0, 53, 0, 0, 0, 0}, make([]byte, 20)...)...))
	f.Add(address(unix.AF_INET6, 0, 53, 0, 0, 0, 0))
	f.Add(address(unix.AF_UNIX, []byte("/run/x.sock")...))
	f.Fuzz(func(t *testing.T, b []byte) {
		addr, ok := parseSockaddr(b)
		if !ok {
			return
		}
		if family := binary.NativeEndian.Uint16(b); family != unix.AF_INET && family != unix.AF_INET6 {
			t.Errorf("family %d became %s", family, addr)
		}
		if addr.Port() != binary.BigEndian.Uint16(b[2:]) || !addr.IsValid() || addr.Addr().Zone() != "" || len(addr.String()) > 64 {
			t.Errorf("%x became %s", b, addr)
		}
	})
}
