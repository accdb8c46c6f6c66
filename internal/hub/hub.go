// Package hub fetches models and data sets from a Hugging Face hub into the
// cache that the hub's own tools use, so that each finds what the other
// fetched:
//
//	models--ORG--NAME/blobs/ETAG            a file's content under its checksum
//	models--ORG--NAME/snapshots/COMMIT/...  links into blobs, by file name
//	models--ORG--NAME/refs/REVISION         the commit that a branch stood for
//
// A blob gets its name only after its size and its checksum were found right.
// The links of a snapshot appear when all of its files are there, and the ref
// comes last, so a pull that was cut short shows nothing half-finished. What it
// had received stays in blobs/ETAG.mlkv.incomplete, with a record of the parts
// that are there, and the next pull goes on from it.
//
// What the hub sends is not trusted: file names that lead out of the snapshot
// are refused, all writing stays below the repository's folder whatever links
// lie in it, and the token goes to the hub alone.
package hub

// DefaultEndpoint is the public hub, used where HF_ENDPOINT names no other.
const DefaultEndpoint = "https://huggingface.co"
