package deps

import "slices"

// module is the path that every package of ours begins with.
const module = "forefend.dev/forefend"

// ban forbids imports. Patterns are import paths; one that ends in "/..." also means everything below, and "~" stands
// for the module.
type ban struct {
	packages  []string // whom it binds
	except    []string // whom of those it does not
	imports   []string // what they may not import
	allow     []string // what of that they may
	transient bool     // also through other packages
	testsToo  bool     // also from test files
	reason    string
}

// leaves are the vocabulary that all parts share.
var leaves = []string{"~/runtime/workload", "~/runtime/policy", "~/predictor/evidence", "~/netns/flow"}

// threads are what enters namespaces, for all parts.
const threads = "~/netns/enter"

// pure packages decide: the same input gives the same output, everywhere and always.
var pure = []string{
	"~/runtime/policy", "~/runtime/rewrite/...", "~/predictor/estimate/...", "~/predictor/risk/...", "~/netns/pdp/...",
}

const (
	upstreamShim = "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"
	tomlReader   = "github.com/BurntSushi/toml"
	celReader    = "cel.dev/cel-go"
)

var law = slices.Concat(rooms("~/shim", "~/predictor", "~/agent", "~/netns"), []ban{
	{
		packages: pure,
		imports: []string{
			"os/...", "net/...", "log/...", "syscall", "unsafe", "path/filepath", "io/ioutil", "crypto/rand",
			"golang.org/x/sys/...", "golang.org/x/net/...",
			"github.com/sirupsen/logrus/...", "github.com/containerd/log/...",
		},
		allow:  []string{"net/netip", "net/url"}, // values, no network
		reason: "a pure package touches no file, network, log or chance",
	},
	{
		packages: pure, imports: []string{"~/..."}, allow: slices.Concat(leaves, pure), transient: true,
		reason: "a pure package knows only the leaves and other pure packages",
	},
	{
		packages: leaves, imports: []string{"~/..."}, allow: leaves, transient: true,
		reason: "a leaf knows only other leaves",
	},
	{
		packages: []string{"~/..."}, except: []string{"~/shim/internal/upstream/..."},
		imports: []string{upstreamShim + "/..."}, testsToo: true,
		reason: "one package alone knows the stock shim, so that a new containerd means one change",
	},
	{
		packages: []string{"~/..."}, imports: []string{upstreamShim + "/task/plugin"}, transient: true, testsToo: true,
		reason: "its init registers the stock task service beside ours",
	},
	{
		packages: []string{"~/shim/early", "~/cmd/containerd-shim-forefend-v1/first"},
		imports:  []string{"~/...", "github.com/...", "golang.org/...", "google.golang.org/...", "path/filepath", "net/...", "os/exec"},
		allow: []string{
			"~/shim/early", "~/shim/internal/cmdline", "google.golang.org/protobuf/encoding/protowire",
			"google.golang.org/protobuf/internal/errors", "google.golang.org/protobuf/internal/detrand",
		}, transient: true,
		reason: "it ends most start and delete commands before what it does not import is set up (decision 0090)",
	},
	{
		packages: []string{"~/..."}, except: []string{"~/cmd/internal/config/..."},
		imports: []string{tomlReader + "/..."}, testsToo: true,
		reason: "config.toml has one reader",
	},
	{
		packages: []string{"~/..."}, except: []string{"~/netns/pdp"}, imports: []string{celReader + "/..."}, testsToo: true,
		reason: "conditions have one language, and one package that knows it",
	},
	{
		packages: []string{"~/..."}, except: []string{"~/cmd/forefend/..."},
		imports: []string{"github.com/prometheus/..."}, transient: true,
		reason: "metrics are the daemon's: a shim lives beside every container and stays small",
	},
	{
		packages: []string{"~/cmd/forefend/..."}, except: []string{"~/cmd/forefend/meter"},
		imports: []string{"github.com/prometheus/..."}, testsToo: true,
		reason: "one package alone knows client_golang; tests that scrape read text",
	},
	{
		packages: []string{"~/..."}, except: []string{"~/test/..."}, imports: []string{"k8s.io/api/...", "sigs.k8s.io/yaml/..."}, transient: true,
		reason: "Kubernetes' types check what is exported, in tests: they are megabytes",
	},
	{
		packages: []string{"~/agent/...", "~/cmd/forefend-agent/..."},
		imports:  []string{"github.com/containerd/containerd/...", tomlReader + "/...", celReader + "/...", "~/netns/pdp"}, transient: true,
		reason: "the agent stays small: it lives in every container",
	},
	{
		packages: []string{"~/..."}, except: []string{"~/cmd/...", "~/test/..."}, imports: []string{"~/cmd/..."}, transient: true,
		reason: "only commands know commands: below them are no flags, files or environment",
	},
	{
		packages: []string{"~/..."}, except: []string{"~/test/..."}, imports: []string{"~/test/..."}, transient: true,
		reason: "nothing that ships contains test code",
	},
	{
		packages: []string{"~/runtime/..."}, imports: []string{"~/shim/...", "~/agent/..."}, transient: true,
		reason: "the shim and the agent are clients of runtime, not its parts",
	},
})

// rooms forbids the given parts to import one another, except for the leaves and the threads they share.
func rooms(parts ...string) []ban {
	var bans []ban
	for _, from := range parts {
		for _, to := range parts {
			if from != to {
				bans = append(bans, ban{
					packages: []string{from + "/..."}, imports: []string{to + "/..."}, allow: append(leaves, threads), transient: true, testsToo: true,
					reason: from[2:] + " and " + to[2:] + " meet in cmd only",
				})
			}
		}
	}
	return bans
}

// emptyNames say nothing about a package: whatever does not fit elsewhere ends there.
var emptyNames = []string{
	"util", "utils", "common", "helper", "helpers", "misc", "base", "types", "manager", "managers", "shared", "lib",
}

// clock are the functions of package time that read or wait for the machine's clock.
var clock = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}
