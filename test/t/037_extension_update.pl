
# ALTER EXTENSION UPDATE comes to what CREATE EXTENSION does: in the catalogues, an extension that was installed in another
# version and updated is the same as one that is new.

use strict;
use warnings FATAL => 'all';

use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use ExtensionCatalog;

my $VERSION = slurp_file("$FindBin::RealBin/../../nats_publish.control") =~ /^default_version = '(.*)'$/m ? $1 : die 'no default_version';
my $SCRIPT = slurp_file("$FindBin::RealBin/../../sql/nats_publish--$VERSION.sql");

# A copy of the server, whose extensions can have versions of our own: where it is, and the directory of its extensions.
sub copy_of_installation
{
	open(my $output, '-|', "$FindBin::RealBin/../copy_server", PostgreSQL::Test::Utils::tempdir('installation')) or die "copy_server: $!";
	chomp(my $copy = <$output>);
	my ($here, $there) = map { { library => readpipe("$_ --pkglibdir") =~ s/\n//r, share => readpipe("$_ --sharedir") =~ s/\n//r } } 'pg_config', $copy;
	system_or_bail('cp', "$here->{library}/nats_publish.so", $there->{library});
	system_or_bail('cp', glob("$here->{share}/extension/nats_publish*"), "$there->{share}/extension");
	return ($copy =~ s{/bin/pg_config$}{}r, "$there->{share}/extension");
}

# A statement of the released script, by what it begins with, which leaves the schema out: with its body, if it has one.
sub released
{
	my ($beginning) = @_;
	my $pattern = join ' (?:\@extschema\@\.)?', map { quotemeta } split / (?=nats_)/, $beginning;
	my $body = qr/ \$\$ .*? \$\$ | ^BEGIN[ ]ATOMIC\n .*? ^END /msx;
	return $SCRIPT =~ /^($pattern(?:$body|(?!$body).)*?;)$/ms ? $1 : die "$beginning is not in the script";
}

# The same, with another text in it.
sub changed
{
	my ($beginning, $from, $to) = @_;
	my $statement = released($beginning);
	$statement =~ s/\Q$from\E/$to/ or die "$from is not in $beginning";
	return $statement =~ s/^CREATE/CREATE OR REPLACE/r;
}

sub replaced { return released($_[0]) =~ s/^CREATE/CREATE OR REPLACE/r; }

my $OUTBOX = 'ALTER TABLE nats_outbox';
my $FLUSH = 'ALTER FUNCTION nats_flush(interval)';

# What an older version could have had otherwise, and what an update from it would have to do about that.
my @DIFFERENCES = (
	[ 'the comment of a function', 'COMMENT ON FUNCTION nats_flush(interval) IS NULL', released('COMMENT ON FUNCTION nats_flush') ],
	[ 'the comment of a column', q(COMMENT ON COLUMN nats_outbox.payload IS 'other'), released('COMMENT ON COLUMN nats_outbox.payload') ],
	[ 'a comment too many', q(COMMENT ON COLUMN nats_outbox.id IS 'other'), 'COMMENT ON COLUMN nats_outbox.id IS NULL' ],
	[ 'the comment of the extension', q(COMMENT ON EXTENSION nats_publish IS 'other'),
		q(DO $$BEGIN EXECUTE (SELECT format('COMMENT ON EXTENSION nats_publish IS %L', comment) FROM pg_available_extensions WHERE name = 'nats_publish'); END$$) ],
	[ 'the volatility of a function', "$FLUSH STABLE", "$FLUSH VOLATILE" ],
	[ 'the cost of a function', "$FLUSH COST 7", "$FLUSH COST 1" ],
	[ 'the strictness of a function', "$FLUSH STRICT", "$FLUSH CALLED ON NULL INPUT" ],
	[ 'the owner of a function', "$FLUSH OWNER TO pg_monitor", "$FLUSH OWNER TO CURRENT_USER" ],
	[ 'the rights of a function', 'ALTER FUNCTION nats_relay_pause() SECURITY DEFINER', 'ALTER FUNCTION nats_relay_pause() SECURITY INVOKER' ],
	[ 'a setting of a function', 'ALTER FUNCTION nats_relay_pause() RESET search_path',
		'ALTER FUNCTION nats_relay_pause() SET search_path = pg_catalog, pg_temp' ],
	[ 'the body of a function', changed('CREATE FUNCTION nats_unpublish_ddl', 'dropped boolean := false', 'dropped boolean := true'), replaced('CREATE FUNCTION nats_unpublish_ddl') ],
	[ 'a body that is parsed',
		"CREATE OR REPLACE FUNCTION nats_relay_resume() RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp\nBEGIN ATOMIC\nSELECT;\nEND",
		replaced('CREATE FUNCTION nats_relay_resume') ],
	[ 'the symbol of a function', changed('CREATE FUNCTION nats_publish(subject text, payload json,', 'nats_publish_text', 'nats_publish_jsonb'),
		replaced('CREATE FUNCTION nats_publish(subject text, payload json,') ],
	[ 'the default of an argument', changed('CREATE FUNCTION nats_check', 'probe boolean DEFAULT false', 'probe boolean DEFAULT true'),
		replaced('CREATE FUNCTION nats_check') ],
	[ 'a function that is missing', 'DROP FUNCTION nats_disconnect()', join(";\n", map { released($_) =~ s/;$//r }
				'CREATE FUNCTION nats_disconnect', 'COMMENT ON FUNCTION nats_disconnect', 'REVOKE ALL ON FUNCTION nats_disconnect') ],
	[ 'a function too many', 'CREATE FUNCTION nats_old() RETURNS int LANGUAGE sql AS $$SELECT 1$$', 'DROP FUNCTION nats_old()' ],
	[ 'a function that is no member', 'ALTER EXTENSION nats_publish DROP FUNCTION nats_flush(interval)',
		'ALTER EXTENSION nats_publish ADD FUNCTION nats_flush(interval)' ],
	[ 'a privilege on a function', 'GRANT EXECUTE ON FUNCTION nats_flush(interval) TO PUBLIC', 'REVOKE ALL ON FUNCTION nats_flush(interval) FROM PUBLIC' ],
	[ 'a privilege on a view', 'REVOKE SELECT ON nats_relay FROM pg_monitor', 'GRANT SELECT ON nats_relay TO pg_monitor' ],
	[ 'a privilege on a column', 'GRANT SELECT (id) ON nats_outbox TO pg_monitor', 'REVOKE SELECT (id) ON nats_outbox FROM pg_monitor' ],
	[ 'a privilege that is not one of the extension, for pg_dump', q(DELETE FROM pg_init_privs WHERE objoid = 'nats_futures()'::regprocedure),
		released('REVOKE ALL ON FUNCTION nats_futures') ],
	[ 'the query of a view', changed('CREATE VIEW nats_outbox_messages', q('dead'), q('gone')), replaced('CREATE VIEW nats_outbox_messages') ],
	[ 'an option of a view', 'ALTER VIEW nats_relay SET (security_barrier)', 'ALTER VIEW nats_relay RESET (security_barrier)' ],
	[ 'a column too many', "$OUTBOX ADD COLUMN old int DEFAULT 1", "$OUTBOX DROP COLUMN old" ],
	[ 'the default of a column', "$OUTBOX ALTER attempts SET DEFAULT 7", "$OUTBOX ALTER attempts SET DEFAULT 0" ],
	[ 'a column that can be NULL', "$OUTBOX ALTER subject DROP NOT NULL", "$OUTBOX ALTER subject SET NOT NULL" ],
	[ 'the storage of a column', "$OUTBOX ALTER payload SET STORAGE EXTERNAL", "$OUTBOX ALTER payload SET STORAGE EXTENDED" ],
	[ 'the statistics of a column', "$OUTBOX ALTER subject SET STATISTICS 7", "$OUTBOX ALTER subject SET STATISTICS -1" ],
	[ 'the identity of a column', "$OUTBOX ALTER id SET GENERATED BY DEFAULT", "$OUTBOX ALTER id SET GENERATED ALWAYS" ],
	[ 'a sequence', 'ALTER SEQUENCE nats_outbox_id_seq CACHE 7', 'ALTER SEQUENCE nats_outbox_id_seq CACHE 1' ],
	[ 'an option of a table', "$OUTBOX RESET (autovacuum_vacuum_threshold)", "$OUTBOX SET (autovacuum_vacuum_threshold = 5000)" ],
	[ 'row-level security', "$OUTBOX ENABLE ROW LEVEL SECURITY", "$OUTBOX DISABLE ROW LEVEL SECURITY" ],
	[ 'the replica identity', "$OUTBOX REPLICA IDENTITY FULL", "$OUTBOX REPLICA IDENTITY DEFAULT" ],
	[ 'a constraint', 'ALTER TABLE nats_control DROP CONSTRAINT nats_control_pkey', 'ALTER TABLE nats_control ADD PRIMARY KEY (id)' ],
	[ 'an index', 'DROP INDEX nats_outbox_waiting; CREATE INDEX nats_outbox_waiting ON nats_outbox (subject, id)',
		join('; ', 'DROP INDEX nats_outbox_waiting', map { released("$_ INDEX nats_outbox_waiting") =~ s/;$//r } 'CREATE', 'COMMENT ON') ],
	[ 'the events of a trigger', changed('CREATE TRIGGER nats_outbox_check', 'INSERT OR UPDATE OF', 'UPDATE OF'), replaced('CREATE TRIGGER nats_outbox_check') ],
	[ 'a trigger that is disabled', "$OUTBOX DISABLE TRIGGER nats_outbox_check", "$OUTBOX ENABLE TRIGGER nats_outbox_check" ],
	[ 'a rule', 'CREATE RULE old AS ON DELETE TO nats_outbox_dead DO INSTEAD NOTHING', 'DROP RULE old ON nats_outbox_dead' ],
	[ 'a policy', "CREATE POLICY old ON nats_outbox_dead USING (id > 0)", 'DROP POLICY old ON nats_outbox_dead' ],
	[ 'an attribute of a type', 'ALTER TYPE nats_puback ADD ATTRIBUTE old int', 'ALTER TYPE nats_puback DROP ATTRIBUTE old' ],
	[ 'the foreign data wrapper', 'ALTER FOREIGN DATA WRAPPER nats NO VALIDATOR', 'ALTER FOREIGN DATA WRAPPER nats VALIDATOR nats_fdw_validator' ],
	[ 'a type', q(CREATE TYPE nats_old AS ENUM ('a')), 'DROP TYPE nats_old' ],
	[ 'an operator', 'CREATE OPERATOR <=> (LEFTARG = text, RIGHTARG = text, FUNCTION = texteq)', 'DROP OPERATOR <=> (text, text)' ],
	[ 'a cast', 'CREATE CAST (nats_puback AS text) WITH INOUT', 'DROP CAST (nats_puback AS text)' ],
	[ 'an event trigger', join('; ', 'CREATE FUNCTION nats_old_event() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN END$$',
			'CREATE EVENT TRIGGER old ON sql_drop EXECUTE FUNCTION nats_old_event()'), 'DROP EVENT TRIGGER old; DROP FUNCTION nats_old_event()' ],
	[ 'what pg_dump dumps', q(SELECT pg_extension_config_dump('nats_outbox', 'WHERE false')), q(SELECT pg_extension_config_dump('nats_outbox', '')) ],
	[ 'what pg_dump does not dump', 'ALTER EXTENSION nats_publish DROP TABLE nats_outbox_dead; ALTER EXTENSION nats_publish ADD TABLE nats_outbox_dead',
		q(SELECT pg_extension_config_dump('nats_outbox_dead', '')) ]);

my ($installation, $extensions) = copy_of_installation();

# Versions that never were: 0.0 has all the differences, 0.0.N has the Nth, and a forgetful update does nothing about it.
append_to_file("$extensions/nats_publish--0.0.sql", join(";\n", $SCRIPT, (map { $_->[1] } @DIFFERENCES), ''));
append_to_file("$extensions/nats_publish--0.0--$VERSION.sql", join(";\n", (map { $_->[2] } @DIFFERENCES), ''));
foreach my $i (0 .. $#DIFFERENCES)
{
	append_to_file("$extensions/nats_publish--0.0.$i.sql", "$SCRIPT;\n$DIFFERENCES[$i][1];\n");
	append_to_file("$extensions/nats_publish--0.0.$i--$VERSION.sql", '');
}

my $node = PostgreSQL::Test::Cluster->new('main', install_path => $installation);
$node->init;
$node->start;

sub update_from { return "CREATE EXTENSION nats_publish VERSION '$_[0]'; ALTER EXTENSION nats_publish UPDATE"; }

my @fresh = extension_catalog($node, 'postgres', 'CREATE EXTENSION nats_publish');
cmp_ok(scalar(@fresh), '>', 1000, 'the catalogues say much of the extension');
is(catalog_difference(\@fresh, [ extension_catalog($node, 'postgres', 'CREATE EXTENSION nats_publish') ]), '', 'and the same each time');

# Every version there is, and the made-up one that has an update as it should be
my @versions = split /\n/, $node->safe_psql('postgres', <<"END");
SELECT v.version, p.path FROM pg_available_extension_versions v
    LEFT JOIN pg_extension_update_paths('nats_publish') p ON p.source = v.version AND p.target = '$VERSION'
WHERE v.name = 'nats_publish' AND v.version !~ '^0\\.0\\.' ORDER BY v.version COLLATE "C"
END
my %scripts = map { m{--([^-]*)\.sql$} ? ($1 => 1) : () } glob "$FindBin::RealBin/../../sql/nats_publish--*.sql";
is_deeply([ map { /(.*)\|/ } @versions ], [ sort '0.0', keys %scripts ], 'the versions are those that there are scripts of');
foreach (@versions)
{
	my ($version, $path) = split /\|/, $_, -1;
	isnt($path, '', "version $version can be updated") if $version ne $VERSION;
	is(catalog_difference(\@fresh, [ extension_catalog($node, 'postgres', update_from($version)) ]), '', "version $version, updated: $path");
}

# An update that leaves something as it was is found out
foreach my $i (0 .. $#DIFFERENCES)
{
	my $difference = catalog_difference(\@fresh, [ extension_catalog($node, 'postgres', update_from("0.0.$i")) ]);
	isnt($difference, '', "an update that forgets $DIFFERENCES[$i][0]");
}

done_testing();
