package threat

import (
	"errors"
	"fmt"
	"strings"
)

// Bounds of a pattern.
const (
	maxPattern      = 16 << 10 // bytes
	maxNesting      = 32
	maxConjunctions = 4096 // of a pattern in disjunctive form
	maxParts        = 16   // of one conjunction
)

// atom is one comparison; indicator is nil when it says nothing that can be observed here.
type atom struct{ indicator *indicator }

// conjunction is what has to be seen together.
type conjunction []atom

// parsePattern reads a STIX pattern (STIX 2.1, section 9) and returns it as alternatives of conjunctions. AND and
// FOLLOWEDBY between observations are conjunctions: that all were seen is known here, the order is not. Qualifiers
// (WITHIN, REPEATS, START/STOP) are read and left out.
func parsePattern(s string) ([]conjunction, error) {
	if len(s) > maxPattern {
		return nil, fmt.Errorf("is longer than %d KiB", maxPattern>>10)
	}
	p := &patternParser{rest: s}
	if err := p.next(); err != nil {
		return nil, err
	}
	all, err := p.observations(0)
	if err != nil {
		return nil, err
	}
	if p.token.kind != tokenEnd {
		return nil, unexpected(p.token)
	}
	return all, nil
}

type tokenKind uint8

const (
	tokenEnd    tokenKind = iota
	tokenWord             // keyword, path, number
	tokenString           // 'text', without its quotes
	tokenSign             // [ ] ( ) , = != < > <= >=
)

type token struct {
	kind tokenKind
	text string
}

type patternParser struct {
	rest  string
	token token
}

// is tells whether the token is the sign or, in any case, the word.
func (p *patternParser) is(text string) bool {
	return p.token.kind == tokenSign && p.token.text == text || p.token.kind == tokenWord && strings.EqualFold(p.token.text, text)
}

func (p *patternParser) take(text string) (bool, error) {
	if !p.is(text) {
		return false, nil
	}
	return true, p.next()
}

func (p *patternParser) expect(text string) error {
	if !p.is(text) {
		return unexpected(p.token)
	}
	return p.next()
}

func (p *patternParser) next() error {
	p.rest = strings.TrimLeft(p.rest, " \t\r\n")
	if p.rest == "" {
		p.token = token{}
		return nil
	}
	switch c := p.rest[0]; c {
	case '[', ']', '(', ')', ',':
		p.sign(1)
	case '=', '!', '<', '>':
		n := 1
		if len(p.rest) > 1 && (p.rest[1] == '=' || c == '<' && p.rest[1] == '>') {
			n = 2
		}
		p.sign(n)
	case '\'':
		return p.quoted()
	default:
		return p.word()
	}
	return nil
}

func (p *patternParser) sign(n int) { p.token, p.rest = token{tokenSign, p.rest[:n]}, p.rest[n:] }

func (p *patternParser) quoted() error {
	var b strings.Builder
	for i := 1; i < len(p.rest); i++ {
		switch c := p.rest[i]; {
		case c == '\'':
			p.token, p.rest = token{tokenString, b.String()}, p.rest[i+1:]
			return nil
		case c == '\\' && i+1 < len(p.rest):
			i++
			b.WriteByte(p.rest[i])
		default:
			b.WriteByte(c)
		}
	}
	return errors.New("has a string without an end")
}

// word reads a keyword, a literal such as t'2020-…', or a path, in which parts and keys may be quoted: file:hashes.'SHA-256'.
func (p *patternParser) word() error {
	i := 0
	for i < len(p.rest) && !strings.ContainsRune(" \t\r\n(),=!<>]", rune(p.rest[i])) {
		c := p.rest[i]
		switch {
		case c == '\'' || c == '"':
			end := strings.IndexByte(p.rest[i+1:], c)
			if end < 0 {
				return errors.New("has a string without an end")
			}
			i += end + 2
		case c == '[': // an index of a list: extension_refs[0]
			end := strings.IndexByte(p.rest[i:], ']')
			if end < 0 {
				return errors.New("has [ without ]")
			}
			i += end + 1
		default:
			i++
		}
	}
	if i == 0 {
		return fmt.Errorf("%.10q was not expected there", p.rest)
	}
	p.token, p.rest = token{tokenWord, p.rest[:i]}, p.rest[i:]
	return nil
}

// observations reads alternatives of observations: OR binds weaker than FOLLOWEDBY, that weaker than AND. Both of these
// join, so they share a level.
func (p *patternParser) observations(depth int) ([]conjunction, error) {
	return p.alternatives(depth, p.observationsJoined)
}

func (p *patternParser) observationsJoined(depth int) ([]conjunction, error) {
	return p.joined(depth, p.observation, "AND", "FOLLOWEDBY")
}

func (p *patternParser) observation(depth int) ([]conjunction, error) {
	open, end, inner := "[", "]", p.comparisons
	if p.is("(") {
		open, end, inner = "(", ")", p.observations
	}
	all, err := p.enclosed(depth, open, end, inner)
	if err != nil {
		return nil, err
	}
	return all, p.qualifiers()
}

func (p *patternParser) enclosed(depth int, open, end string, inner func(int) ([]conjunction, error)) ([]conjunction, error) {
	if depth >= maxNesting {
		return nil, errDeep
	}
	if err := p.expect(open); err != nil {
		return nil, err
	}
	all, err := inner(depth + 1)
	if err != nil {
		return nil, err
	}
	return all, p.expect(end)
}

// qualifiers skips WITHIN 5 SECONDS, REPEATS 3 TIMES, START t'…' STOP t'…'.
func (p *patternParser) qualifiers() error {
	for {
		words := 0
		switch {
		case p.is("WITHIN"), p.is("REPEATS"):
			words = 3
		case p.is("START"):
			words = 4
		default:
			return nil
		}
		for range words {
			if p.token.kind != tokenWord {
				return unexpected(p.token)
			}
			if err := p.next(); err != nil {
				return err
			}
		}
	}
}

func (p *patternParser) comparisons(depth int) ([]conjunction, error) {
	return p.alternatives(depth, p.comparisonsJoined)
}

func (p *patternParser) comparisonsJoined(depth int) ([]conjunction, error) {
	return p.joined(depth, p.comparison, "AND")
}

func (p *patternParser) alternatives(depth int, one func(int) ([]conjunction, error)) ([]conjunction, error) {
	all, err := one(depth)
	for err == nil {
		var more bool
		if more, err = p.take("OR"); err != nil || !more {
			break
		}
		var next []conjunction
		if next, err = one(depth); len(all)+len(next) > maxConjunctions {
			return nil, errMany
		}
		all = append(all, next...)
	}
	return all, err
}

var errMany = fmt.Errorf("has more than %d alternatives, or alternatives of more than %d parts", maxConjunctions, maxParts)

// joined multiplies out: (a OR b) AND (c OR d) is ac, ad, bc, bd.
func (p *patternParser) joined(depth int, one func(int) ([]conjunction, error), words ...string) ([]conjunction, error) {
	all, err := one(depth)
next:
	for err == nil {
		for _, w := range words {
			if !p.is(w) {
				continue
			}
			if err = p.next(); err != nil {
				return nil, err
			}
			var right []conjunction
			if right, err = one(depth); err != nil {
				return nil, err
			}
			if all, err = product(all, right); err != nil {
				return nil, err
			}
			continue next
		}
		break
	}
	return all, err
}

func product(left, right []conjunction) ([]conjunction, error) {
	if len(left)*len(right) > maxConjunctions {
		return nil, errMany
	}
	var out []conjunction
	for _, l := range left {
		for _, r := range right {
			if len(l)+len(r) > maxParts {
				return nil, errMany
			}
			out = append(out, append(l[:len(l):len(l)], r...))
		}
	}
	return out, nil
}

// comparison reads PATH OPERATOR VALUE, EXISTS PATH, or comparisons in parentheses.
func (p *patternParser) comparison(depth int) ([]conjunction, error) {
	if p.is("(") {
		return p.enclosed(depth, "(", ")", p.comparisons)
	}
	negated := false
	for p.is("NOT") || p.is("EXISTS") {
		negated = true // existence of a kind of thing is nothing to match
		if err := p.next(); err != nil {
			return nil, err
		}
		if p.token.kind == tokenWord && strings.Contains(p.token.text, ":") && p.atEndOfComparison() {
			return []conjunction{{{}}}, p.next()
		}
	}
	path := p.token
	if path.kind != tokenWord || !strings.Contains(path.text, ":") {
		return nil, unexpected(path)
	}
	if err := p.next(); err != nil {
		return nil, err
	}
	not, err := p.take("NOT")
	if err != nil {
		return nil, err
	}
	operator := p.token
	if operator.kind != tokenSign && operator.kind != tokenWord {
		return nil, unexpected(operator)
	}
	if err := p.next(); err != nil {
		return nil, err
	}
	return p.values(path.text, strings.ToUpper(operator.text), negated || not)
}

// atEndOfComparison tells whether nothing is compared after the word: EXISTS PATH.
func (p *patternParser) atEndOfComparison() bool {
	rest := strings.TrimLeft(p.rest, " \t\r\n")
	upper := strings.ToUpper(rest[:min(4, len(rest))])
	return rest == "" || rest[0] == ']' || rest[0] == ')' || strings.HasPrefix(upper, "AND ") || strings.HasPrefix(upper, "OR ")
}

// values reads one value or a list after IN; only equality and subsets of prefixes can be looked up.
func (p *patternParser) values(path, operator string, negated bool) ([]conjunction, error) {
	var texts []string
	switch operator {
	case "=", "==", "!=", "<>", "<", ">", "<=", ">=", "LIKE", "MATCHES", "ISSUBSET", "ISSUPERSET":
		if p.token.kind != tokenString && p.token.kind != tokenWord {
			return nil, unexpected(p.token)
		}
		texts = append(texts, p.token.text)
		if err := p.next(); err != nil {
			return nil, err
		}
	case "IN":
		var err error
		if texts, err = p.list(); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("%.40q is no comparison", operator)
	}
	usable := !negated && (operator == "=" || operator == "==" || operator == "IN" || operator == "ISSUBSET")
	var all []conjunction
	for _, t := range texts {
		a := atom{}
		if usable {
			a.indicator = stixIndicator(path, t)
		}
		all = append(all, conjunction{a})
	}
	return all, nil
}

func (p *patternParser) list() ([]string, error) {
	if err := p.expect("("); err != nil {
		return nil, err
	}
	var texts []string
	for {
		if p.token.kind != tokenString && p.token.kind != tokenWord {
			return nil, unexpected(p.token)
		}
		texts = append(texts, p.token.text)
		if err := p.next(); err != nil {
			return nil, err
		}
		more, err := p.take(",")
		if err != nil {
			return nil, err
		}
		if !more {
			return texts, p.expect(")")
		}
	}
}
