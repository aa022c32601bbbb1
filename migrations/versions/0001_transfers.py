"""transfers

Numbered, and never edited once it has landed. Expand first; a later migration drops what is unused.
"""

from alembic import op
import sqlalchemy as sa


revision = '0001'
down_revision = None
branch_labels = None
depends_on = None


def upgrade():
    op.create_table('transfers',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('slug', sa.Text(), nullable=False),
    sa.Column('owner_token_hash', sa.LargeBinary(length=32), nullable=False),
    sa.Column('state', sa.Enum('INIT', 'PROCESSING', 'READY', 'EXPIRED', 'DELETED', name='transfer_state'), nullable=False),
    sa.Column('title', sa.Text(), server_default='', nullable=False),
    sa.Column('message', sa.Text(), server_default='', nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('max_downloads', sa.Integer(), nullable=True),
    sa.Column('download_count', sa.Integer(), server_default='0', nullable=False),
    sa.Column('sent_size', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('last_activity_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('ready_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('expired_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('deleted_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('queued_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('lease_token', sa.Uuid(), nullable=True),
    sa.Column('lease_until', sa.DateTime(timezone=True), nullable=True),
    sa.Column('attempt_count', sa.Integer(), server_default='0', nullable=False),
    sa.CheckConstraint("state <> 'DELETED' OR deleted_at IS NOT NULL", name=op.f('ck_transfers_deleted_has_instant')),
    sa.CheckConstraint("state <> 'READY' OR ready_at IS NOT NULL", name=op.f('ck_transfers_ready_has_instant')),
    sa.CheckConstraint('attempt_count >= 0', name=op.f('ck_transfers_attempt_count_not_negative')),
    sa.CheckConstraint('download_count <= max_downloads', name=op.f('ck_transfers_downloads_within_limit')),
    sa.CheckConstraint('download_count >= 0', name=op.f('ck_transfers_download_count_not_negative')),
    sa.CheckConstraint('lease_token IS NULL OR lease_until IS NOT NULL', name=op.f('ck_transfers_lease_ends')),
    sa.CheckConstraint('max_downloads >= 1', name=op.f('ck_transfers_max_downloads_positive')),
    sa.CheckConstraint('octet_length(owner_token_hash) = 32', name=op.f('ck_transfers_owner_token_is_sha256')),
    sa.CheckConstraint('sent_size >= 0', name=op.f('ck_transfers_sent_size_not_negative')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_transfers')),
    sa.UniqueConstraint('slug', name=op.f('uq_transfers_slug'))
    )
    op.create_index('ix_transfers_due', 'transfers', ['expires_at'], unique=False, postgresql_where=sa.text("state = 'READY'"))
    op.create_index('ix_transfers_expired', 'transfers', ['expired_at'], unique=False, postgresql_where=sa.text("state = 'EXPIRED'"))
    op.create_index('ix_transfers_idle', 'transfers', ['last_activity_at'], unique=False, postgresql_where=sa.text("state = 'INIT'"))
    op.create_index('ix_transfers_processing', 'transfers', ['lease_until'], unique=False, postgresql_where=sa.text("state = 'PROCESSING'"))
    op.create_table('uploads',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('key', sa.Text(), nullable=False),
    sa.Column('token', sa.Text(), nullable=False),
    sa.Column('method', sa.Enum('single', 'multipart', name='upload_method'), nullable=False),
    sa.Column('s3_upload_id', sa.Text(), nullable=True),
    sa.Column('size', sa.BigInteger(), nullable=False),
    sa.Column('part_size', sa.BigInteger(), nullable=False),
    sa.Column('state', sa.Enum('OPEN', 'COMPLETE', 'ABORTED', name='upload_state'), nullable=False),
    sa.Column('etag', sa.Text(), nullable=True),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('urls_until', sa.DateTime(timezone=True), nullable=True),
    sa.Column('remove_after', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('removed_at', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint("method <> 'single' OR s3_upload_id IS NULL", name=op.f('ck_uploads_single_has_no_id')),
    sa.CheckConstraint("method <> 'single' OR size <= part_size", name=op.f('ck_uploads_single_is_one_part')),
    sa.CheckConstraint("removed_at IS NULL OR state = 'ABORTED'", name=op.f('ck_uploads_removed_is_aborted')),
    sa.CheckConstraint("state <> 'COMPLETE' OR etag IS NOT NULL", name=op.f('ck_uploads_complete_has_etag')),
    sa.CheckConstraint('part_size >= 5242880 OR part_size >= size', name=op.f('ck_uploads_part_size_not_small')),
    sa.CheckConstraint('part_size BETWEEN 1 AND 5368709120', name=op.f('ck_uploads_part_size_within_s3')),
    sa.CheckConstraint('size <= part_size * 10000', name=op.f('ck_uploads_parts_within_s3')),
    sa.CheckConstraint('size BETWEEN 0 AND 53687091200000', name=op.f('ck_uploads_size_within_s3')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_uploads')),
    sa.UniqueConstraint('key', name=op.f('uq_uploads_key'))
    )
    op.create_index('ix_uploads_s3_upload_id', 'uploads', ['s3_upload_id'], unique=False, postgresql_where=sa.text('s3_upload_id IS NOT NULL'))
    op.create_index('ix_uploads_to_remove', 'uploads', ['remove_after'], unique=False, postgresql_where=sa.text("state = 'ABORTED' AND removed_at IS NULL"))
    op.create_table('files',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('transfer_id', sa.Uuid(), nullable=False),
    sa.Column('upload_id', sa.Uuid(), nullable=False),
    sa.Column('position', sa.Integer(), nullable=False),
    sa.Column('path', sa.Text(), nullable=False),
    sa.Column('content_type', sa.Text(), server_default='', nullable=False),
    sa.Column('problem', sa.Enum('missing', 'wrong_size', 'lost', name='file_problem'), nullable=True),
    sa.CheckConstraint("path <> ''", name=op.f('ck_files_path_not_empty')),
    sa.CheckConstraint('position >= 0', name=op.f('ck_files_position_not_negative')),
    sa.ForeignKeyConstraint(['transfer_id'], ['transfers.id'], name=op.f('fk_files_transfer_id'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['upload_id'], ['uploads.id'], name=op.f('fk_files_upload_id'), ondelete='RESTRICT'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_files')),
    sa.UniqueConstraint('upload_id', name=op.f('uq_files_upload_id'))
    )
    op.create_index('ix_files_transfer_id_position', 'files', ['transfer_id', 'position'], unique=False)
    op.create_index('uq_files_transfer_id_path', 'files', ['transfer_id', 'path'], unique=True)
    op.create_table('downloads',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('transfer_id', sa.Uuid(), nullable=False),
    sa.Column('file_id', sa.Uuid(), nullable=True),
    sa.Column('visitor_hash', sa.LargeBinary(length=32), nullable=True),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('statement_timestamp()'), nullable=False),
    sa.ForeignKeyConstraint(['file_id'], ['files.id'], name=op.f('fk_downloads_file_id'), ondelete='SET NULL'),
    sa.ForeignKeyConstraint(['transfer_id'], ['transfers.id'], name=op.f('fk_downloads_transfer_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_downloads'))
    )
    op.create_index('ix_downloads_file_id', 'downloads', ['file_id'], unique=False)
    op.create_index('ix_downloads_transfer_id_visitor_hash', 'downloads', ['transfer_id', 'visitor_hash', 'created_at'], unique=False)


def downgrade():
    op.drop_index('ix_downloads_transfer_id_visitor_hash', table_name='downloads')
    op.drop_index('ix_downloads_file_id', table_name='downloads')
    op.drop_table('downloads')
    op.drop_index('uq_files_transfer_id_path', table_name='files')
    op.drop_index('ix_files_transfer_id_position', table_name='files')
    op.drop_table('files')
    op.drop_index('ix_uploads_to_remove', table_name='uploads', postgresql_where=sa.text("state = 'ABORTED' AND removed_at IS NULL"))
    op.drop_index('ix_uploads_s3_upload_id', table_name='uploads', postgresql_where=sa.text('s3_upload_id IS NOT NULL'))
    op.drop_table('uploads')
    op.drop_index('ix_transfers_processing', table_name='transfers', postgresql_where=sa.text("state = 'PROCESSING'"))
    op.drop_index('ix_transfers_idle', table_name='transfers', postgresql_where=sa.text("state = 'INIT'"))
    op.drop_index('ix_transfers_expired', table_name='transfers', postgresql_where=sa.text("state = 'EXPIRED'"))
    op.drop_index('ix_transfers_due', table_name='transfers', postgresql_where=sa.text("state = 'READY'"))
    op.drop_table('transfers')
    for name in ('file_problem', 'upload_state', 'upload_method', 'transfer_state'):
        sa.Enum(name=name).drop(op.get_bind())
