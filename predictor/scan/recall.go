package scan

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/rootfs"
)

// result is a whole scan as it is remembered: with every question that it asked of the root filesystem, and the answers.
// While all answers are the same, so is the scan.
type result struct {
	Scan   evidence.Scan
	Asked  map[string]answer
	Listed map[string]string // hash of the entries
}

func resultKey(req Request) string {
	h := sha256.New()
	fmt.Fprintf(h, "%d %d %q %q %q", storeVersion, evidence.ScanVersion, req.Command, req.Env, req.Cwd)
	return fmt.Sprintf("r%d-%s", storeVersion, hex.EncodeToString(h.Sum(nil)))
}

// recall fills s from what is remembered, if it still holds.
func (st *store) recall(v *view, req Request, s *evidence.Scan) bool {
	var r result
	if st.dir == "" || st.read(resultKey(req), &r) != nil || r.Scan.Version != evidence.ScanVersion {
		return false
	}
	for name, was := range r.Asked {
		if look(v.root, name) != was {
			return false
		}
	}
	for name, was := range r.Listed {
		entries, _, _ := v.root.List(name)
		if hashEntries(entries) != was {
			return false
		}
	}
	s.Arch, s.Entry, s.Syscalls, s.Unknown, s.Programs = r.Scan.Arch, r.Scan.Entry, r.Scan.Syscalls, r.Scan.Unknown, r.Scan.Programs
	s.Cached = len(r.Scan.Programs)
	return true
}

func (st *store) remember(v *view, req Request, s *evidence.Scan) {
	if st.dir == "" {
		return
	}
	r := result{Scan: *s, Asked: v.asked, Listed: make(map[string]string, len(v.listed))}
	for name, entries := range v.listed {
		r.Listed[name] = hashEntries(entries)
	}
	st.write(resultKey(req), &r)
}

func hashEntries(entries []rootfs.Entry) string {
	var b strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&b, "%s\x00%d\x00", e.Name, e.Type)
	}
	sum := sha256.Sum256([]byte(b.String()))
	return hex.EncodeToString(sum[:16])
}
