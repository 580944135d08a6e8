package flow

// Credential is the token that proves a user. It is a secret: it is written into no JSON, and printed as what it is not.
type Credential string

// String keeps it out of logs.
func (c Credential) String() string {
	if c == "" {
		return ""
	}
	return "(a token)"
}

// GoString likewise.
func (c Credential) GoString() string { return c.String() }
