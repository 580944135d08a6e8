package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/capability"

	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/seccomp"
)

// readSite reads what the site decides about containers. file is what explain
// shows as the source.
func (c *Config) readSite(top *table, file string) {
	site := &c.Site
	if claim, ok := top.mode(file + " mode"); ok {
		site.Claims = []policy.Claim{claim}
	}
	site.Claims = append(site.Claims, top.sub("defaults").defaults(file+" [defaults]")...)
	site.Guards = top.sub("guardrails").guards(file + " [guardrails]")
	top.sub("conflicts").conflicts(site.Prefer)
	for _, t := range top.subs("profile") {
		p := t.profile()
		if slices.ContainsFunc(site.Profiles, func(q policy.Profile) bool { return q.Name == p.Name && p.Name != "" }) {
			t.problem(t.at("name"), "give each profile a name of its own", "a profile above is called %s too", short(p.Name))
		}
		site.Profiles = append(site.Profiles, p)
	}
}

func (t *table) mode(source string) (policy.Claim, bool) {
	v, ok := t.take("mode")
	if !ok {
		return policy.Claim{}, false
	}
	value, ok := t.value(t.at("mode"), policy.KeyMode, v)
	return modeClaim(value, source), ok
}

// conflicts reads [conflicts] over the rules that hold without it.
func (t *table) conflicts(prefer map[policy.Dimension]policy.Prefer) {
	for _, d := range policy.Dimensions {
		rule := string(prefer[d])
		t.word(string(d), &rule, string(policy.PreferRequest), string(policy.PreferStrictest), string(policy.PreferPrediction))
		prefer[d] = policy.Prefer(rule)
	}
	t.rest()
}

func (t *table) profile() policy.Profile {
	var p policy.Profile
	t.text("name", &p.Name)
	if err := policy.CheckIdentity(p.Name); err != nil || p.Name == policy.DefaultProfile {
		t.problem(t.at("name"), `write name = "…", the word explain will show`, "a profile needs a name of 1 to 128 printable characters without spaces, not %q", policy.DefaultProfile)
	}
	p.Users, p.Groups = t.patterns("users"), t.patterns("groups")
	if len(p.Users)+len(p.Groups) == 0 {
		t.problem(t.path, `write users = ["…"] or groups = ["…"]; "*" is everybody`, "matches nobody")
	}
	p.Grants = t.grants()
	source := "profile " + p.Name
	if claim, ok := t.mode(source); ok {
		p.Claims = []policy.Claim{claim}
	}
	p.Claims = append(p.Claims, t.sub("defaults").defaults(source)...)
	p.Guards = t.sub("guardrails").guards(source)
	t.rest()
	return p
}

func (t *table) patterns(key string) (list []string) {
	t.strings(key, func(path []string, s string) {
		if err := policy.CheckPattern(s); err != nil {
			t.problem(path, `write a name, or a pattern such as "web-*"`, "%s", err)
		}
		list = append(list, s)
	})
	return list
}

func (t *table) grants() (out []policy.Key) {
	t.strings("grants", func(path []string, s string) {
		k := policy.Key(s)
		if k.Known() || slices.Contains(policy.Keys(), k) {
			out = append(out, k)
			return
		}
		fix := "known are " + keyNames()
		if near := nearest(s, strings.Split(keyNames(), ", ")); near != "" {
			fix = "did you mean " + near + "?"
		}
		t.problem(path, fix, "%s is not a policy key", short(s))
	})
	return out
}

func keyNames() string {
	var names []string
	for _, k := range policy.Keys() {
		names = append(names, string(k))
	}
	return strings.Join(names, ", ")
}

// An entry is a key of [defaults] or [guardrails]. Because the dot in
// "memory.soft" and in memory.soft means the same, entries are found by joining
// the names of nested tables.
type entry struct {
	name  string
	path  []string
	value any
}

// entries flattens the table into entries. A table whose name is a plain
// key goes to bound, together with its keys that bound knows.
func (t *table) entries(bound []string) []entry {
	var out []entry
	var walk func(prefix string, path []string, values map[string]any)
	walk = func(prefix string, path []string, values map[string]any) {
		limits := make(map[string]any)
		for _, k := range slices.Sorted(maps.Keys(values)) {
			at := append(path[:len(path):len(path)], k)
			if policy.Key(prefix).Known() && slices.Contains(bound, k) {
				limits[k] = values[k]
				continue
			}
			full := k
			if prefix != "" {
				full = prefix + "." + k
			}
			if nested, ok := values[k].(map[string]any); ok && len(nested) > 0 {
				walk(full, at, nested)
				continue
			}
			out = append(out, entry{full, at, values[k]})
		}
		if len(limits) > 0 {
			out = append(out, entry{prefix, path, limits})
		}
	}
	walk("", t.path, t.values)
	return out
}

// value parses what TOML holds for a plain key with the words of annotations.
func (r *reader) value(path []string, k policy.Key, v any) (policy.Value, bool) {
	var s string
	switch v := v.(type) {
	case string:
		s = v
	case int64:
		s = strconv.FormatInt(v, 10)
	case float64:
		s = strconv.FormatFloat(v, 'f', -1, 64)
	default:
		r.problem(path, "write "+example(k), "is %s", kind(v))
		return 0, false
	}
	value, err := k.Parse(s)
	if err != nil {
		r.problem(path, "write "+example(k), "%s", reason(k, err))
		return 0, false
	}
	return value, true
}

// example is a value of k as it stands in the file.
func example(k policy.Key) string {
	if words := k.Words(); words != nil {
		return strconv.Quote(words[0]) + " or " + strconv.Quote(words[len(words)-1])
	}
	switch k {
	case policy.KeyMemory, policy.KeyMemorySoft, policy.KeyMemorySwap:
		return `"512Mi"`
	case policy.KeyCPUs:
		return "1.5"
	}
	return "1000"
}

// reason is err without the key, which the problem names already.
func reason(k policy.Key, err error) string { return strings.TrimPrefix(err.Error(), string(k)+": ") }

// members reads a list such as syscalls.deny.
func (r *reader) members(e entry, add func(policy.Key, policy.Value)) {
	r.items(e.path, e.value, func(path []string, s string) {
		key, v, err := policy.ParseMember(e.name, s)
		if err != nil {
			r.problem(path, "", "%s", err)
			return
		}
		if fix, ok := exists(key); !ok {
			r.problem(path, fix, "there is no %s", short(s))
			return
		}
		add(key, v)
	})
}

// exists reports whether this machine has the system call or capability that
// key is about.
func exists(key policy.Key) (fix string, ok bool) {
	family, name := key.Family()
	var known []string
	switch family {
	case policy.KeySyscalls:
		if _, ok := seccomp.Number(name); ok {
			return "", true
		}
		known = seccomp.Names()
	case policy.KeyCapabilities:
		for _, c := range capability.ListKnown() {
			known = append(known, "CAP_"+strings.ToUpper(c.String()))
		}
		if slices.Contains(known, name) {
			return "", true
		}
	default:
		return "", true
	}
	if near := nearest(name, known); near != "" {
		return fmt.Sprintf("did you mean %s?", near), false
	}
	return "remove it", false
}

func (t *table) unknownEntry(e entry, allowed []string) {
	known := slices.Clone(allowed)
	for _, k := range policy.Keys() {
		if k.Known() {
			known = append(known, string(k))
		}
	}
	near := nearest(e.name, known)
	fix := "known here are " + strings.Join(known, ", ")
	if near != "" {
		fix = "did you mean " + near + "?"
	}
	t.problem(e.path, fix, "unknown key")
}

// defaults reads [defaults]: any plain key with a value, any list.
func (t *table) defaults(source string) []policy.Claim {
	var out []policy.Claim
	add := func(k policy.Key, v policy.Value) {
		out = append(out, policy.Claim{Key: k, Value: v, Origin: policy.Origin{Author: policy.Default, Source: source}})
	}
	for _, e := range t.entries(nil) {
		switch k := policy.Key(e.name); {
		case k == policy.KeyMode:
			t.problem(e.path, "write mode = … above, beside name or at the top of the file", "stands in the wrong place")
		case k.Known():
			if v, ok := t.value(e.path, k, e.value); ok {
				add(k, v)
			}
		case slices.Contains(policy.ListNames(), e.name):
			t.members(e, add)
		default:
			t.unknownEntry(e, policy.ListNames())
		}
	}
	return out
}
