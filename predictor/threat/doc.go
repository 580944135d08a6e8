// Package threat knows what others have found to be bad: addresses, domains, URLs and hashes from feed files, and
// attack patterns. It answers which of a container's destinations are listed (Set.Contacts) and which techniques its
// observations match (Patterns.Techniques).
//
// A Set is immutable: any goroutine may ask it. Feeds watches directories of feed files and replaces its Set as a whole;
// a file that cannot be read keeps what it said before. Fetching feeds is not done here, and nothing here decides what
// follows from a match: that is predictor/risk and predictor/recommend.
package threat
