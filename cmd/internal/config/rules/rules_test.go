package rules

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/pdp"
)

const site = `
[[rule]]
name = "admin-confidential"
when = 'user == "admin" && data == "confidential"'
tunnel = { encryption = "strong", dedicated = true }
[[rule]]
name = "limit"
when = 'host.endsWith(".example.com")'
tunnel = { rate = "8mbit", scope = "user" }
`

const tests = `
[[test]]
name = "admin"
context = { user = "admin", user_proof = "token", data = "confidential" }
expect = { tunnel = { encryption = "strong", dedicated = true }, rules = ["admin-confidential"] }
[[test]]
name = "nobody"
context = { data = "public" }
expect = { deny = true, rules = [] }
[[test]]
name = "limited"
context = { data = "public", host = "a.example.com" }
expect = { tunnel = { encryption = "standard", dedicated = false, endpoint = "", rate = "8mbit", scope = "user" }, qos = "" }
`

// directory makes a directory of files.
func directory(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

var deny = pdp.Options{Default: flow.Profile{Deny: true}}

func TestLoadAndTest(t *testing.T) {
	dir := directory(t, map[string]string{"a.toml": site, "b.toml": tests, "c.toml~": "x", ".d.toml": "x", "README": "x"})
	d, err := Load(dir, deny)
	if err != nil {
		t.Fatal(err)
	}
	results := d.Test(time.Now())
	if len(results) != 3 || d.Set.Len() != 2 {
		t.Errorf("%+v", results)
	}
	for _, r := range results {
		if !r.OK {
			t.Errorf("%+v", r)
		}
	}
	if one, err := Load(filepath.Join(dir, "a.toml"), deny); err != nil || one.Set.Len() != 2 || len(one.Files) != 1 {
		t.Errorf("%+v, %v", one, err)
	}
}

// TestVersion: rules are told from others by what their files hold, wherever these are, and those of the store by their number.
func TestVersion(t *testing.T) {
	version := func(d *Directory, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return d.Set.Decide(&flow.Context{}, pdp.Moment{}).RuleVersion
	}
	files := map[string]string{"a.toml": site, "b.toml": tests}
	one := version(Load(directory(t, files), deny))
	if want := Digest(map[string][]byte{"a.toml": []byte(site), "b.toml": []byte(tests)}); one != want || !strings.HasPrefix(one, "sha256:") {
		t.Errorf("%s, want %s", one, want)
	}
	if again := version(Load(directory(t, files), deny)); again != one {
		t.Errorf("the same files elsewhere are %s, not %s", again, one)
	}
	files["b.toml"] += "# and more\n"
	if other := version(Load(directory(t, files), deny)); other == one {
		t.Error("others are the same")
	}
	if stored := version(Compile("store", map[string][]byte{"a.toml": []byte(site)}, 13, deny)); stored != "13" {
		t.Error(stored)
	}
	if none := version(Compile("store", nil, 0, deny)); none != "" {
		t.Error(none)
	}
}

// TestDifferences: each part of an expectation can fail.
func TestDifferences(t *testing.T) {
	const wrong = `
[[test]]
name = "wrong"
context = { user = "admin", user_proof = "token", data = "confidential", host = "a.example.com" }
expect = { deny = true, tunnel = { encryption = "none", dedicated = false, endpoint = "eu", rate = "9mbit" }, qos = "bulk", rules = ["x"] }
`
	d, err := Load(directory(t, map[string]string{"a.toml": site, "b.toml": wrong}), deny)
	if err != nil {
		t.Fatal(err)
	}
	r := d.Test(time.Now())[0]
	if want := []string{
		"deny: want true, got false", "encryption: want none, got strong", "dedicated: want false, got true", `endpoint: want "eu", got ""`,
		`qos: want "bulk", got ""`, "rate: want 9mbit per rule, got [8mbit per user]", "rules: want [x], got [admin-confidential limit]",
	}; r.OK || fmt.Sprint(r.Wrong) != fmt.Sprint(want) {
		t.Errorf("got %q\nwant %q", r.Wrong, want)
	}
}

// TestProblems are told with their file, line and column.
func TestProblems(t *testing.T) {
	dir := directory(t, map[string]string{"a.toml": `
[[rule]]
name = "a"
when = """
user == "x" &&
  usr == "y"
"""
tunnel = { encryption = "strong" }
[[rule]]
name = "b"
when = "true"
tunel = { encryption = "strong" }
`, "b.toml": "[[rule]]\nname = 'a'\nwhen = 'risk'\ndeny = true\n[[rule]]\n"})
	d, err := Load(dir, deny)
	var problems config.Problems
	if !errors.As(err, &problems) || d.Set != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(err.Error(), dir+"/", "")
	for _, want := range []string{
		"a.toml:6:3: rule.when: undeclared reference to 'usr'",
		"a.toml:12:1: rule.tunel: unknown key; did you mean tunnel?",
		"b.toml:1:1: rule: the name \"a\" is taken by the rule at a.toml:2",
		"b.toml:3:9: rule.when: the condition is of type int",
		"b.toml:5:1: rule: a rule needs a name",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("missing %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "1 to 64") {
		t.Errorf("said twice:\n%s", text)
	}
}

func TestBounds(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "none"), deny); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	many := make(map[string]string)
	for i := range maxFiles + 1 {
		many[fmt.Sprintf("%d.toml", i)] = ""
	}
	if _, err := Load(directory(t, many), deny); err == nil || !strings.Contains(err.Error(), "257 rule files") {
		t.Error(err)
	}
	large := make(map[string]string)
	for i := range 9 {
		large[fmt.Sprintf("%d.toml", i)] = strings.Repeat("#", config.MaxRuleFile)
	}
	if _, err := Load(directory(t, large), deny); err == nil || !strings.Contains(err.Error(), "more than 8 MiB") {
		t.Error(err)
	}
	classes := ""
	for i := range 40 {
		classes += fmt.Sprintf("[[rule]]\nname = '%d'\nwhen = 'data == \"c%d\"'\ndeny = true\n", i, i)
	}
	dir := directory(t, map[string]string{"a.toml": classes})
	if _, err := Load(dir, deny); err == nil || !strings.HasPrefix(err.Error(), dir+": rules name 40 classes") {
		t.Error(err)
	}
	strange := t.TempDir()
	if err := os.Mkdir(filepath.Join(strange, "a.toml"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(strange, deny); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Error(err)
	}
}

// FuzzRules reads anything as a rule file, and decides by what is in order.
func FuzzRules(f *testing.F) {
	f.Add(site + tests)
	f.Add("[[rule]]\nname='a'\nwhen=\"\"\"\\\n  true \\u00e4 \"\"\"\ndeny=true")
	f.Add("[[rule]]\nname='a'\nwhen='user.matches(\"(a|b)*\")'\ntunnel={rate='1mbit'}\n[[test]]\nname='x'\nexpect={}")
	f.Fuzz(func(t *testing.T, text string) {
		file, problems := config.ParseRules("/x/f.toml", []byte(text))
		if file == nil {
			return
		}
		d := &Directory{Path: "/x", Files: []*config.RuleFile{file}}
		set, more := compile(d, deny)
		for _, p := range append(problems, more...) {
			if p.Line < 0 || p.Line > strings.Count(text, "\n")+1 || p.Column < 0 || p.Column > len(text)+1 || len(p.String()) > 8192 {
				t.Errorf("%+v", p)
			}
		}
		if d.Set = set; len(problems) == 0 && set != nil {
			d.Test(time.Unix(0, 0))
		}
	})
}
