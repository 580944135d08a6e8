package evidence

// ScanVersion is the version of the Scan format. A cached scan of another version is made anew.
const ScanVersion = 1

// Scan is what static analysis says of one command in one root filesystem. It is the JSON of forefend-scan.
type Scan struct {
	Version int      `json:"version"`
	Key     string   `json:"key,omitempty"` // of the content it was made from; equal keys, equal scans
	Command []string `json:"command"`
	Arch    string   `json:"arch,omitempty"`  // as GOARCH
	Entry   string   `json:"entry,omitempty"` // the program that is executed, symbolic links resolved

	// Syscalls are the system calls that may be reached, by name, sorted.
	Syscalls []string `json:"syscalls,omitempty"`
	// Unknown lists what could not be resolved. An empty list means that Syscalls is believed to be complete.
	Unknown  []Unknown `json:"unknown,omitempty"`
	Programs []Program `json:"programs,omitempty"`

	// OneNumbering: nothing was found that calls the kernel as a program of another architecture does (int 0x80), nor a way to
	// run such programs.
	OneNumbering bool `json:"one_numbering,omitempty"`

	Capabilities []Capability `json:"capabilities,omitempty"`
	Ports        []Port       `json:"ports,omitempty"`
	Memory       MemoryPrior  `json:"memory,omitzero"`
	Sinks        []Sink       `json:"sinks,omitempty"`

	Packages        int             `json:"packages,omitempty"` // how many were found
	Vulnerabilities []Vulnerability `json:"vulnerabilities,omitempty"`

	Seconds float64  `json:"seconds,omitempty"`
	Cached  int      `json:"cached,omitempty"` // objects whose analysis was remembered
	Errors  []string `json:"errors,omitempty"` // parts of the analysis that failed, and why
}

// Complete tells whether the list of system calls may be relied on.
func (s *Scan) Complete() bool { return s != nil && len(s.Syscalls) > 0 && len(s.Unknown) == 0 }

// The kinds of Unknown.
const (
	UnknownCall    = "call"    // a system call whose number is not constant
	UnknownProgram = "program" // a program that is executed, whose name is not constant
	UnknownPlugin  = "plugin"  // a library that is loaded, whose name is not constant
	UnknownFile    = "file"    // a file that is missing or could not be analysed
)

// Unknown is something the analysis could not follow.
type Unknown struct {
	Kind  string `json:"kind,omitempty"`
	Where string `json:"where"` // path, with an offset or a line
	Why   string `json:"why"`
}

// Program is one file whose code may run.
type Program struct {
	Path   string `json:"path"`
	Kind   string `json:"kind"` // elf, go, script, library, plugin, module
	Via    string `json:"via"`  // how it is reached: entrypoint, exec by PATH, dlopen by PATH, …
	SHA256 string `json:"sha256,omitempty"`
}

// Capability is one that the program is likely to need, as in CAP_NET_BIND_SERVICE without its prefix.
type Capability struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// Port is one the program is seen to listen on.
type Port struct {
	Number   int    `json:"number"`
	Protocol string `json:"protocol"` // tcp or udp
	Why      string `json:"why"`
}

// MemoryPrior is what the language runtime and its configuration say about memory, before any run was seen.
type MemoryPrior struct {
	Runtime string  `json:"runtime,omitempty"` // jvm, node, go, python, php-fpm, postgres, redis, mysql, native, …
	Typical float64 `json:"typical,omitempty"` // bytes, median peak of such a program; 0: nothing can be said
	High    float64 `json:"high,omitempty"`    // bytes, exceeded by one in a hundred
	Basis   string  `json:"basis,omitempty"`
}

// Sink is something that may eat a resource of the node.
type Sink struct {
	Kind     string  `json:"kind"`     // fork-bomb, endless-loop, miner, fill-disk, allocate-all, oversized
	Resource string  `json:"resource"` // cpu, memory, pids, disk, network
	Severity float64 `json:"severity"` // 0 to 1
	Where    string  `json:"where"`
	Why      string  `json:"why"`
}

// Vulnerability is a known one of a package in the image.
type Vulnerability struct {
	ID        string   `json:"id"`
	Aliases   []string `json:"aliases,omitempty"`
	Package   string   `json:"package"`
	Version   string   `json:"version"`
	Ecosystem string   `json:"ecosystem"`
	Fixed     string   `json:"fixed,omitempty"`    // first version without it, "" when there is none
	Severity  float64  `json:"severity,omitempty"` // CVSS base score, 0 to 10
	Vector    string   `json:"vector,omitempty"`   // CVSS vector
	CWE       []string `json:"cwe,omitempty"`
	// Exploited is the estimated probability that it is or will be exploited in the wild, 0 to 1.
	Exploited   float64 `json:"exploited,omitempty"`
	ExploitedBy string  `json:"exploited_by,omitempty"` // the file that speaks of its exploitation; "": the model alone
	// Reachable says whether code of the package may be run by the command.
	Reachable bool   `json:"reachable"`
	Via       string `json:"via,omitempty"` // the file by which it is reachable
}
