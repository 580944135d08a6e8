// Package numbers names system calls by their numbers, for every architecture that is scanned and whatever the scanner
// itself runs on.
package numbers

import (
	"strconv"
	"strings"
	"sync"
)

var tables = map[string]func() map[int]string{
	"amd64": sync.OnceValue(func() map[int]string { return parse(amd64Calls) }),
	"arm64": sync.OnceValue(func() map[int]string { return parse(arm64Calls) }),
}

func parse(list string) map[int]string {
	m := make(map[int]string, 400)
	for pair := range strings.FieldsSeq(list) {
		name, number, _ := strings.Cut(pair, "=")
		if n, err := strconv.Atoi(number); err == nil {
			m[n] = name
		}
	}
	return m
}

// Name is the name of call n on arch (a GOARCH); false when there is none.
func Name(arch string, n int) (string, bool) {
	table, ok := tables[arch]
	if !ok {
		return "", false
	}
	name, ok := table()[n]
	return name, ok
}
