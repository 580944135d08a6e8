package intercept

import (
	"slices"
	"strings"

	"forefend.dev/forefend/netns/flow"
)

// ofPath is the service that a gRPC request is for and what its method does, by the path /SERVICE/METHOD (gRPC over HTTP2,
// "Requests"). A path of another form has no service and writes.
func ofPath(path string) (service, operation string) {
	service, method, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if !ok || service == "" || strings.Contains(method, "/") || len(service) > maxService {
		return "", flow.Write
	}
	return service, ofMethod(method)
}

// maxService is the longest name of a service that is kept, in bytes.
const maxService = 255

// readers are the first words of methods that look and change nothing, as google.aip.dev/130 and
// grpc.health.v1 name them.
var readers = []string{"Get", "List", "Watch", "BatchGet", "Search", "Lookup", "Describe", "Check"}

// ofMethod is what a method of gRPC does, by the words of its name, where no mapping says otherwise. One that does two things
// (GetOrCreate, CheckAndMutate) writes.
func ofMethod(name string) string {
	reads := slices.ContainsFunc(readers, func(word string) bool {
		rest, ok := strings.CutPrefix(name, word)
		return ok && !beginsLower(rest)
	})
	if !reads || hasWord(name, "Or") || hasWord(name, "And") || hasWord(name, "Then") {
		return flow.Write
	}
	return flow.Read
}

// hasWord tells whether a word, which begins in upper case, is one of those of a name.
func hasWord(name, word string) bool {
	for rest := name; ; {
		_, after, ok := strings.Cut(rest, word)
		if !ok {
			return false
		}
		if !beginsLower(after) {
			return true
		}
		rest = after
	}
}

func beginsLower(s string) bool { return s != "" && 'a' <= s[0] && s[0] <= 'z' }
