package inventory

// For the test that writes the schema.
var (
	SchemaWith = schemaWith
	CommentKey = commentKey
)
